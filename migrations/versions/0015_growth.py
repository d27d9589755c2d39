"""Index what is looked for among the rows of years: few of many, or the newest.

Revision: 0015, after 0013.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

WHOLE = (
    ("delivery", ("created_at",)),
    ("slnd", ("recorded_at",)),
    # In place of one of study_uid alone: marks without their image have none.
    ("annotation", ("study_uid", "recorded_at")),
    ("annotation", ("study_uid", "image_uid")),
)
FEW = (
    ("study", ("purge_begun_at",), "purge_begun_at IS NOT NULL"),
    ("completeness", ("asking_until",), "asking_until IS NOT NULL"),
)
"""Conditions that few rows meet: the index holds just those."""


def upgrade() -> None:
    for table, columns in WHOLE:
        op.create_index(_name(table, columns), table, list(columns), unique=False)
    op.drop_index(op.f("ix_annotation_study_uid"), table_name="annotation")
    for table, columns, condition in FEW:
        op.create_index(
            _name(table, columns),
            table,
            list(columns),
            unique=False,
            sqlite_where=sa.text(condition),
            postgresql_where=sa.text(condition),
        )


def downgrade() -> None:
    for table, columns, _ in reversed(FEW):
        op.drop_index(_name(table, columns), table_name=table)
    op.create_index(
        op.f("ix_annotation_study_uid"), "annotation", ["study_uid"], unique=False
    )
    for table, columns in reversed(WHOLE):
        op.drop_index(_name(table, columns), table_name=table)


def _name(table: str, columns: tuple[str, ...]) -> str:
    return op.f(f"ix_{table}_{'_'.join(columns)}")

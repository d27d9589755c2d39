"""Index what is looked for among the rows of years: few of many, or the newest.

Revision: 0015, after 0013.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0013"
branch_labels = None
depends_on = None

NEWEST = (("delivery", "created_at"), ("slnd", "recorded_at"))
FEW = (
    ("study", ("purge_begun_at",), "purge_begun_at IS NOT NULL"),
    ("completeness", ("asking_until",), "asking_until IS NOT NULL"),
    ("annotation", ("document_uid", "image_uid"), "study_uid IS NULL"),
)
"""Conditions that few rows meet: the index holds just those."""


def upgrade() -> None:
    for table, column in NEWEST:
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column], unique=False)
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
    for table, column in reversed(NEWEST):
        op.drop_index(op.f(f"ix_{table}_{column}"), table_name=table)


def _name(table: str, columns: tuple[str, ...]) -> str:
    return op.f(f"ix_{table}_{'_'.join(columns)}")

"""Keep labels, clinical variables, roles of patients, and what was frozen from them.

Revision: 0007.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def _event(name: str, key: str, *columns: sa.Column) -> None:
    """Create a table of events of one side of a study."""
    op.create_table(
        name,
        sa.Column(key, sa.Integer(), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("laterality", sa.String(length=32), nullable=False),
        *columns,
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("recorded_at", TIME, nullable=False),
        sa.Column("recorded_by", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_uid"], ["study.study_uid"], name=op.f(f"fk_{name}_study_uid")
        ),
        sa.PrimaryKeyConstraint(key, name=op.f(f"pk_{name}")),
    )
    op.create_index(
        op.f(f"ix_{name}_study_uid_laterality"),
        name,
        ["study_uid", "laterality"],
        unique=False,
    )


def upgrade() -> None:
    _event(
        "label_event",
        "label_id",
        sa.Column("target", sa.String(length=32), nullable=False),
        sa.Column("value", sa.String(length=32), nullable=False),
        sa.Column("performed_on", sa.Date(), nullable=True),
    )
    _event(
        "clinical_event",
        "clinical_id",
        sa.Column("variable", sa.String(length=32), nullable=False),
        sa.Column("value", sa.String(length=32), nullable=True),
    )
    op.create_table(
        "patient_role",
        sa.Column("patient_key", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("centre", sa.String(), nullable=False),
        sa.Column("assigned_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("patient_key", name=op.f("pk_patient_role")),
    )
    op.create_table(
        "dataset_snapshot",
        sa.Column("snapshot_id", sa.String(length=64), nullable=False),
        sa.Column("as_of", TIME, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("cases", sa.Integer(), nullable=False),
        sa.Column("sln_positive", sa.Integer(), nullable=False),
        sa.Column("sln_known", sa.Integer(), nullable=False),
        sa.Column("nsln_positive", sa.Integer(), nullable=False),
        sa.Column("nsln_known", sa.Integer(), nullable=False),
        sa.Column("results", sa.JSON(), nullable=False),
        sa.Column("exclusions", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("snapshot_id", name=op.f("pk_dataset_snapshot")),
    )


def downgrade() -> None:
    op.drop_table("dataset_snapshot")
    op.drop_table("patient_role")
    for name in ("clinical_event", "label_event"):
        op.drop_index(op.f(f"ix_{name}_study_uid_laterality"), table_name=name)
        op.drop_table(name)

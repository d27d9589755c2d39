"""Send the audit trail: who took part, how far collectors are, what was transferred.

Revision: 0013.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
COLUMNS = (
    ("audit", "peer", sa.String()),
    ("audit", "objects", sa.Text()),
    ("association_study", "objects", sa.Text()),
)


def upgrade() -> None:
    for table, name, kind in COLUMNS:
        op.add_column(table, sa.Column(name, kind, nullable=True))
    op.create_table(
        "audit_mark",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_audit_mark")),
    )
    # Entries were made per study and document before: what is older has them.
    at = sa.table("audit_mark", sa.column("name", sa.String), sa.column("at", TIME))
    now = sa.select(sa.literal("begun"), sa.func.current_timestamp())
    op.execute(at.insert().from_select(["name", "at"], now))
    op.create_table(
        "audit_relay",
        sa.Column("collector", sa.String(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("anchor", sa.BigInteger(), nullable=False),
        sa.Column("recent", sa.BigInteger(), nullable=False),
        sa.Column("recent_at", TIME, nullable=True),
        sa.Column("failing_since", TIME, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("holder", sa.String(length=36), nullable=True),
        sa.Column("until", TIME, nullable=True),
        sa.PrimaryKeyConstraint("collector", name=op.f("pk_audit_relay")),
    )
    op.create_table(
        "transfer",
        sa.Column("transfer_id", sa.String(length=36), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.String(), nullable=False),
        sa.Column("began_at", TIME, nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("objects", sa.Text(), nullable=True),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("transfer_id", "study_uid", name=op.f("pk_transfer")),
    )
    for column in ("study_uid", "began_at"):
        op.create_index(
            op.f(f"ix_transfer_{column}"), "transfer", [column], unique=False
        )


def downgrade() -> None:
    op.drop_table("transfer")
    op.drop_table("audit_relay")
    op.drop_table("audit_mark")
    for table, name, _ in reversed(COLUMNS):
        op.drop_column(table, name)

"""Find the bulk work that waits, and the live studies it gives way to, by an index.

Revision: 0014.
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

INDEX = "ix_study_state_bulk_queued_at"


def upgrade() -> None:
    columns = ["state", "bulk", "queued_at"]
    op.create_index(op.f(INDEX), "study", columns, unique=False)


def downgrade() -> None:
    op.drop_index(op.f(INDEX), table_name="study")

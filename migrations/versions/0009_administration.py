"""Pause a queue, let bulk work wait behind other, write a report anew.

Revision: 0009.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

FLAGS = (("study", "bulk"), ("case", "rewrite"))


def upgrade() -> None:
    op.create_table(
        "pause",
        sa.Column("pause_id", sa.Integer(), nullable=False),
        sa.Column("queue", sa.String(length=32), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("set_by", sa.String(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("pause_id", name=op.f("pk_pause")),
    )
    op.create_index(op.f("ix_pause_queue"), "pause", ["queue"], unique=False)
    for table, name in FLAGS:
        with op.batch_alter_table(table, recreate="never") as altered:
            flag = sa.Column(
                name, sa.Boolean(), nullable=False, server_default=sa.false()
            )
            altered.add_column(flag)


def downgrade() -> None:
    for table, name in reversed(FLAGS):
        with op.batch_alter_table(table, recreate="never") as altered:
            altered.drop_column(name)
    op.drop_index(op.f("ix_pause_queue"), table_name="pause")
    op.drop_table("pause")

"""Keep HL7 messages, parked results of dissection, and the day of the MRI.

Revision: 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hl7_message",
        sa.Column("message_id", sa.Integer(), nullable=False),
        sa.Column("control_key", sa.String(length=64), nullable=False),
        sa.Column("content_key", sa.String(length=64), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("code", sa.String(length=2), nullable=False),
        sa.Column("condition", sa.Integer(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("conflicts", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_hl7_message")),
        sa.UniqueConstraint("control_key", name=op.f("uq_hl7_message_control_key")),
    )
    op.create_index(
        op.f("ix_hl7_message_received_at"), "hl7_message", ["received_at"], unique=False
    )
    # No foreign key: SQLite would have to drop a table that results refer to.
    op.add_column("case", sa.Column("studied_on", sa.Date(), nullable=True))
    op.add_column("slnd", sa.Column("message_id", sa.Integer(), nullable=True))
    op.create_index(op.f("ix_slnd_message_id"), "slnd", ["message_id"], unique=False)
    op.create_table(
        "parked_slnd",
        sa.Column("parked_id", sa.Integer(), nullable=False),
        sa.Column("message_id", sa.Integer(), nullable=True),
        sa.Column("laterality", sa.String(length=32), nullable=True),
        sa.Column("result", sa.String(length=32), nullable=True),
        sa.Column("deposit", sa.String(length=32), nullable=True),
        sa.Column("performed_on", sa.Date(), nullable=True),
        sa.Column("correction", sa.Boolean(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tried_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_by", sa.String(), nullable=True),
        sa.Column("slnd_id", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["message_id"],
            ["hl7_message.message_id"],
            name=op.f("fk_parked_slnd_message_id"),
        ),
        sa.ForeignKeyConstraint(
            ["slnd_id"], ["slnd.slnd_id"], name=op.f("fk_parked_slnd_slnd_id")
        ),
        sa.PrimaryKeyConstraint("parked_id", name=op.f("pk_parked_slnd")),
    )
    op.create_index(
        op.f("ix_parked_slnd_state_tried_at"),
        "parked_slnd",
        ["state", "tried_at"],
        unique=False,
    )
    op.create_table(
        "parked_patient",
        sa.Column("parked_patient_id", sa.Integer(), nullable=False),
        sa.Column("parked_id", sa.Integer(), nullable=False),
        sa.Column("patient_key", sa.String(length=64), nullable=False),
        sa.Column("issuer_keys", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["parked_id"],
            ["parked_slnd.parked_id"],
            name=op.f("fk_parked_patient_parked_id"),
        ),
        sa.PrimaryKeyConstraint("parked_patient_id", name=op.f("pk_parked_patient")),
    )
    for column in ("parked_id", "patient_key"):
        op.create_index(
            op.f(f"ix_parked_patient_{column}"),
            "parked_patient",
            [column],
            unique=False,
        )


def downgrade() -> None:
    op.drop_table("parked_patient")
    op.drop_table("parked_slnd")
    op.drop_index(op.f("ix_slnd_message_id"), table_name="slnd")
    op.drop_column("slnd", "message_id")
    op.drop_column("case", "studied_on")
    op.drop_table("hl7_message")

"""Remember what was sent where, and whether the archive committed to keep it.

Revision: 0005, variants of documents, storage commitment.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


# Columns are added and dropped in place: SQLite would copy a table otherwise, and the
# rows of others refer to it.
def columns() -> tuple[sa.Column, ...]:
    return (
        sa.Column("study_uid", sa.String(length=64), nullable=True),
        sa.Column("sent_as", sa.String(length=64), nullable=True),
        sa.Column("commitment", sa.String(length=32), nullable=True),
        sa.Column("commitment_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("commitment_tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("commitment_note", sa.Text(), nullable=True),
        sa.Column("resends", sa.Integer(), server_default="0", nullable=False),
    )


def upgrade() -> None:
    op.add_column(
        "document", sa.Column("variant_of", sa.String(length=64), nullable=True)
    )
    op.create_index(
        op.f("ix_document_variant_of"), "document", ["variant_of"], unique=False
    )
    for column in columns():
        op.add_column("delivery", column)
    op.create_index(
        op.f("ix_delivery_state_commitment_at"),
        "delivery",
        ["state", "commitment_at"],
        unique=False,
    )
    op.create_index(
        op.f("ix_delivery_study_uid_destination_state"),
        "delivery",
        ["study_uid", "destination", "state"],
        unique=False,
    )
    op.execute(
        "UPDATE delivery SET study_uid = (SELECT document.study_uid FROM document "
        "WHERE document.sop_instance_uid = delivery.sop_instance_uid)"
    )
    # What was sent before went out as itself.
    op.execute(
        "UPDATE delivery SET sent_as = sop_instance_uid "
        "WHERE state IN ('sent', 'committed')"
    )
    op.create_table(
        "commitment",
        sa.Column("commitment_id", sa.Integer(), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("delivery_id", sa.String(length=36), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("failure_reason", sa.Integer(), nullable=True),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["delivery.delivery_id"],
            name=op.f("fk_commitment_delivery_id"),
        ),
        sa.PrimaryKeyConstraint("commitment_id", name=op.f("pk_commitment")),
        sa.UniqueConstraint(
            "transaction_uid",
            "delivery_id",
            name=op.f("uq_commitment_transaction_uid_delivery_id"),
        ),
    )
    op.create_index(
        op.f("ix_commitment_delivery_id"), "commitment", ["delivery_id"], unique=False
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_commitment_delivery_id"), table_name="commitment")
    op.drop_table("commitment")
    op.drop_index(
        op.f("ix_delivery_study_uid_destination_state"), table_name="delivery"
    )
    op.drop_index(op.f("ix_delivery_state_commitment_at"), table_name="delivery")
    for column in reversed(columns()):
        op.drop_column("delivery", column.name)
    # The earlier version knows neither variants nor cancelled deliveries.
    op.execute("UPDATE delivery SET state = 'failed' WHERE state = 'cancelled'")
    op.execute("DELETE FROM document WHERE variant_of IS NOT NULL")
    op.drop_index(op.f("ix_document_variant_of"), table_name="document")
    op.drop_column("document", "variant_of")

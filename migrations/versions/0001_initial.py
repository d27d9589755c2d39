"""Create the ledger, the outbox and the results.

Revision: 0001, the first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:  # noqa: PLR0915 - one statement for each table and index
    op.create_table(
        "activation",
        sa.Column("activation_id", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("weights_sha256", sa.String(length=64), nullable=False),
        sa.Column("activated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("activated_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("activation_id", name=op.f("pk_activation")),
    )
    op.create_index(op.f("ix_activation_stage"), "activation", ["stage"], unique=False)
    op.create_table(
        "association",
        sa.Column("association_id", sa.String(length=36), nullable=False),
        sa.Column("listener", sa.String(), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("peer_address", sa.String(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("association_id", name=op.f("pk_association")),
    )
    op.create_index(
        op.f("ix_association_closed_at"), "association", ["closed_at"], unique=False
    )
    op.create_table(
        "study",
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("patient_key", sa.String(length=64), nullable=False),
        sa.Column("issuer_key", sa.String(length=64), nullable=True),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("quiet_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("announced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claim_token", sa.String(length=36), nullable=True),
        sa.Column("claimed_by", sa.String(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("study_uid", name=op.f("pk_study")),
    )
    op.create_index(
        op.f("ix_study_last_received_at"), "study", ["last_received_at"], unique=False
    )
    op.create_index(
        op.f("ix_study_patient_key"), "study", ["patient_key"], unique=False
    )
    op.create_index(
        op.f("ix_study_state_announced_at"),
        "study",
        ["state", "announced_at"],
        unique=False,
    )
    op.create_index(
        op.f("ix_study_state_quiet_until"),
        "study",
        ["state", "quiet_until"],
        unique=False,
    )
    op.create_table(
        "threshold",
        sa.Column("threshold_id", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("set_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("threshold_id", name=op.f("pk_threshold")),
    )
    op.create_index(op.f("ix_threshold_stage"), "threshold", ["stage"], unique=False)
    op.create_table(
        "association_study",
        sa.Column("association_id", sa.String(length=36), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["association_id"],
            ["association.association_id"],
            name=op.f("fk_association_study_association_id"),
        ),
        sa.PrimaryKeyConstraint(
            "association_id", "study_uid", name=op.f("pk_association_study")
        ),
    )
    op.create_index(
        op.f("ix_association_study_study_uid"),
        "association_study",
        ["study_uid"],
        unique=False,
    )
    op.create_table(
        "case",
        sa.Column("case_id", sa.String(length=36), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("laterality", sa.String(length=32), nullable=False),
        sa.Column("pathway", sa.String(length=32), nullable=False),
        sa.Column("result_id", sa.String(length=36), nullable=False),
        sa.Column("stale", sa.Boolean(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_uid"], ["study.study_uid"], name=op.f("fk_case_study_uid")
        ),
        sa.PrimaryKeyConstraint("case_id", name=op.f("pk_case")),
        sa.UniqueConstraint(
            "study_uid", "laterality", name=op.f("uq_case_study_uid_laterality")
        ),
    )
    op.create_table(
        "conflict",
        sa.Column("conflict_id", sa.Integer(), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("patient_differs", sa.Boolean(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["study_uid"], ["study.study_uid"], name=op.f("fk_conflict_study_uid")
        ),
        sa.PrimaryKeyConstraint("conflict_id", name=op.f("pk_conflict")),
        sa.UniqueConstraint(
            "sop_instance_uid",
            "sha256",
            name=op.f("uq_conflict_sop_instance_uid_sha256"),
        ),
    )
    op.create_index(
        op.f("ix_conflict_study_uid"), "conflict", ["study_uid"], unique=False
    )
    op.create_table(
        "document",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("result_id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_uid"], ["study.study_uid"], name=op.f("fk_document_study_uid")
        ),
        sa.PrimaryKeyConstraint("sop_instance_uid", name=op.f("pk_document")),
    )
    op.create_index(
        op.f("ix_document_result_id"), "document", ["result_id"], unique=False
    )
    op.create_index(
        op.f("ix_document_study_uid"), "document", ["study_uid"], unique=False
    )
    op.create_table(
        "event",
        sa.Column("event_id", sa.Integer(), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("what", sa.String(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_uid"], ["study.study_uid"], name=op.f("fk_event_study_uid")
        ),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_event")),
    )
    op.create_index(op.f("ix_event_study_uid"), "event", ["study_uid"], unique=False)
    op.create_table(
        "instance",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("series_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("patient_key", sa.String(length=64), nullable=False),
        sa.Column("issuer_key", sa.String(length=64), nullable=True),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("own", sa.Boolean(), nullable=False),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_uid"], ["study.study_uid"], name=op.f("fk_instance_study_uid")
        ),
        sa.PrimaryKeyConstraint("sop_instance_uid", name=op.f("pk_instance")),
    )
    op.create_index(
        op.f("ix_instance_study_uid"), "instance", ["study_uid"], unique=False
    )
    op.create_table(
        "slnd",
        sa.Column("slnd_id", sa.Integer(), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("laterality", sa.String(length=32), nullable=False),
        sa.Column("result", sa.String(length=32), nullable=False),
        sa.Column("deposit", sa.String(length=32), nullable=True),
        sa.Column("performed_on", sa.Date(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_by", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_uid"], ["study.study_uid"], name=op.f("fk_slnd_study_uid")
        ),
        sa.PrimaryKeyConstraint("slnd_id", name=op.f("pk_slnd")),
    )
    op.create_index(
        op.f("ix_slnd_study_uid_laterality"),
        "slnd",
        ["study_uid", "laterality"],
        unique=False,
    )
    op.create_table(
        "delivery",
        sa.Column("delivery_id", sa.String(length=36), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("result_id", sa.String(length=36), nullable=False),
        sa.Column("destination", sa.String(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("announced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claim_token", sa.String(length=36), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["sop_instance_uid"],
            ["document.sop_instance_uid"],
            name=op.f("fk_delivery_sop_instance_uid"),
        ),
        sa.PrimaryKeyConstraint("delivery_id", name=op.f("pk_delivery")),
        sa.UniqueConstraint(
            "sop_instance_uid",
            "destination",
            name=op.f("uq_delivery_sop_instance_uid_destination"),
        ),
    )
    op.create_index(
        op.f("ix_delivery_result_id"), "delivery", ["result_id"], unique=False
    )
    op.create_index(
        op.f("ix_delivery_state_next_attempt_at"),
        "delivery",
        ["state", "next_attempt_at"],
        unique=False,
    )
    op.create_table(
        "result",
        sa.Column("result_id", sa.String(length=36), nullable=False),
        sa.Column("case_id", sa.String(length=36), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("laterality", sa.String(length=32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("pathway", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("supersedes", sa.String(length=36), nullable=True),
        sa.Column("superseded_by", sa.String(length=36), nullable=True),
        sa.Column("discordant", sa.Boolean(), nullable=False),
        sa.Column("slnd_id", sa.Integer(), nullable=True),
        sa.Column("roi_carrier", sa.String(length=32), nullable=False),
        sa.Column("roi_carrier_sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("roi_sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("roi_frame", sa.Integer(), nullable=False),
        sa.Column("roi_x0", sa.Double(), nullable=False),
        sa.Column("roi_y0", sa.Double(), nullable=False),
        sa.Column("roi_x1", sa.Double(), nullable=False),
        sa.Column("roi_y1", sa.Double(), nullable=False),
        sa.Column("roi_author", sa.String(), nullable=True),
        sa.Column("roi_label", sa.String(), nullable=True),
        sa.Column("roi_tracking_uid", sa.String(length=64), nullable=True),
        sa.Column("roi_marked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("roi_exact", sa.Boolean(), nullable=False),
        sa.Column("source_sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("source_frame", sa.Integer(), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("laterality_derived", sa.Boolean(), nullable=False),
        sa.Column("area_mm2", sa.Double(), nullable=False),
        sa.Column("candidates", sa.Integer(), nullable=False),
        sa.Column("why", sa.JSON(), nullable=False),
        sa.Column("input_sop_instance_uids", sa.JSON(), nullable=False),
        sa.Column("input_sha256", sa.String(length=64), nullable=False),
        sa.Column("select_ms", sa.Double(), nullable=False),
        sa.Column("decode_ms", sa.Double(), nullable=False),
        sa.Column("inference_ms", sa.Double(), nullable=False),
        sa.Column("report_ms", sa.Double(), nullable=False),
        sa.Column("total_ms", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["case_id"], ["case.case_id"], name=op.f("fk_result_case_id")
        ),
        sa.ForeignKeyConstraint(
            ["slnd_id"], ["slnd.slnd_id"], name=op.f("fk_result_slnd_id")
        ),
        sa.ForeignKeyConstraint(
            ["study_uid"], ["study.study_uid"], name=op.f("fk_result_study_uid")
        ),
        sa.PrimaryKeyConstraint("result_id", name=op.f("pk_result")),
        sa.UniqueConstraint(
            "case_id", "version", name=op.f("uq_result_case_id_version")
        ),
    )
    op.create_index(
        op.f("ix_result_created_at"), "result", ["created_at"], unique=False
    )
    op.create_index(op.f("ix_result_study_uid"), "result", ["study_uid"], unique=False)
    op.create_table(
        "stage",
        sa.Column("result_id", sa.String(length=36), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("probability", sa.Double(), nullable=True),
        sa.Column("threshold", sa.Double(), nullable=True),
        sa.Column("threshold_source", sa.Text(), nullable=True),
        sa.Column("risk", sa.String(length=32), nullable=True),
        sa.Column("sensitivity_k", sa.Integer(), nullable=True),
        sa.Column("sensitivity_n", sa.Integer(), nullable=True),
        sa.Column("sensitivity_low", sa.Double(), nullable=True),
        sa.Column("sensitivity_high", sa.Double(), nullable=True),
        sa.Column("specificity_k", sa.Integer(), nullable=True),
        sa.Column("specificity_n", sa.Integer(), nullable=True),
        sa.Column("specificity_low", sa.Double(), nullable=True),
        sa.Column("specificity_high", sa.Double(), nullable=True),
        sa.Column("dataset", sa.Text(), nullable=True),
        sa.Column("model", sa.String(), nullable=True),
        sa.Column("weights_sha256", sa.String(length=64), nullable=True),
        sa.Column("preprocessing_sha256", sa.String(length=64), nullable=True),
        sa.Column("device", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["result_id"], ["result.result_id"], name=op.f("fk_stage_result_id")
        ),
        sa.PrimaryKeyConstraint("result_id", "stage", name=op.f("pk_stage")),
    )


def downgrade() -> None:  # noqa: PLR0915 - one statement for each table and index
    op.drop_table("stage")
    op.drop_index(op.f("ix_result_study_uid"), table_name="result")
    op.drop_index(op.f("ix_result_created_at"), table_name="result")
    op.drop_table("result")
    op.drop_index(op.f("ix_delivery_state_next_attempt_at"), table_name="delivery")
    op.drop_index(op.f("ix_delivery_result_id"), table_name="delivery")
    op.drop_table("delivery")
    op.drop_index(op.f("ix_slnd_study_uid_laterality"), table_name="slnd")
    op.drop_table("slnd")
    op.drop_index(op.f("ix_instance_study_uid"), table_name="instance")
    op.drop_table("instance")
    op.drop_index(op.f("ix_event_study_uid"), table_name="event")
    op.drop_table("event")
    op.drop_index(op.f("ix_document_study_uid"), table_name="document")
    op.drop_index(op.f("ix_document_result_id"), table_name="document")
    op.drop_table("document")
    op.drop_index(op.f("ix_conflict_study_uid"), table_name="conflict")
    op.drop_table("conflict")
    op.drop_table("case")
    op.drop_index(
        op.f("ix_association_study_study_uid"), table_name="association_study"
    )
    op.drop_table("association_study")
    op.drop_index(op.f("ix_threshold_stage"), table_name="threshold")
    op.drop_table("threshold")
    op.drop_index(op.f("ix_study_state_quiet_until"), table_name="study")
    op.drop_index(op.f("ix_study_state_announced_at"), table_name="study")
    op.drop_index(op.f("ix_study_patient_key"), table_name="study")
    op.drop_index(op.f("ix_study_last_received_at"), table_name="study")
    op.drop_table("study")
    op.drop_index(op.f("ix_association_closed_at"), table_name="association")
    op.drop_table("association")
    op.drop_index(op.f("ix_activation_stage"), table_name="activation")
    op.drop_table("activation")

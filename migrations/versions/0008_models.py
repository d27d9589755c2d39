"""Register models, judge and shadow them, watch for drift, and train again.

Revision: 0008, after 0007.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

UTC = sa.DateTime(timezone=True)
SHA256 = sa.String(length=64)
ENUM = sa.String(length=32)


def upgrade() -> None:
    _create_versions()
    _create_shadows()
    _create_retraining()
    with op.batch_alter_table("activation", recreate="never") as activation:
        activation.add_column(sa.Column("kind", ENUM, nullable=True))
        activation.add_column(sa.Column("reason", sa.Text(), nullable=True))


def _create_versions() -> None:
    op.create_table(
        "model_version",
        sa.Column("model_version_id", sa.Integer(), nullable=False),
        sa.Column("stage", ENUM, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("weights_sha256", SHA256, nullable=False),
        sa.Column("snapshot_id", SHA256, nullable=True),
        sa.Column("parent", sa.String(), nullable=True),
        sa.Column("status", ENUM, nullable=False),
        sa.Column("holdout_id", SHA256, nullable=True),
        sa.Column("gate", sa.JSON(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", UTC, nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("decided_at", UTC, nullable=True),
        sa.Column("decided_by", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("model_version_id", name=op.f("pk_model_version")),
        sa.UniqueConstraint(
            "name", "version", name=op.f("uq_model_version_name_version")
        ),
    )
    op.create_index(op.f("ix_model_version_stage"), "model_version", ["stage"])
    op.create_table(
        "holdout_look",
        sa.Column("look_id", sa.Integer(), nullable=False),
        sa.Column("stage", ENUM, nullable=False),
        sa.Column("holdout_id", SHA256, nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("looked_at", UTC, nullable=False),
        sa.Column("looked_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("look_id", name=op.f("pk_holdout_look")),
    )
    op.create_index(op.f("ix_holdout_look_holdout_id"), "holdout_look", ["holdout_id"])


def _create_shadows() -> None:
    op.create_table(
        "shadow",
        sa.Column("shadow_id", sa.Integer(), nullable=False),
        sa.Column("stage", ENUM, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("weights_sha256", SHA256, nullable=False),
        sa.Column("started_at", UTC, nullable=False),
        sa.Column("started_by", sa.String(), nullable=False),
        sa.Column("stopped_at", UTC, nullable=True),
        sa.PrimaryKeyConstraint("shadow_id", name=op.f("pk_shadow")),
    )
    op.create_index(op.f("ix_shadow_stage"), "shadow", ["stage"])
    op.create_table(
        "shadow_score",
        sa.Column("result_id", sa.String(length=36), nullable=False),
        sa.Column("stage", ENUM, nullable=False),
        sa.Column("weights_sha256", SHA256, nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("probability", sa.Double(), nullable=True),
        sa.Column("fault", sa.Text(), nullable=True),
        sa.Column("at", UTC, nullable=False),
        sa.ForeignKeyConstraint(
            ["result_id"], ["result.result_id"], name=op.f("fk_shadow_score_result_id")
        ),
        sa.PrimaryKeyConstraint(
            "result_id", "stage", "weights_sha256", name=op.f("pk_shadow_score")
        ),
    )
    op.create_index(op.f("ix_shadow_score_at"), "shadow_score", ["at"])
    op.create_table(
        "drift_report",
        sa.Column("drift_report_id", sa.Integer(), nullable=False),
        sa.Column("at", UTC, nullable=False),
        sa.Column("stage", ENUM, nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("scanner", sa.String(), nullable=False),
        sa.Column("statistic", sa.String(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("p", sa.Double(), nullable=True),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("alarm", sa.Boolean(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("drift_report_id", name=op.f("pk_drift_report")),
    )
    op.create_index(op.f("ix_drift_report_stage_at"), "drift_report", ["stage", "at"])


def _create_retraining() -> None:
    op.create_table(
        "retraining",
        sa.Column("retraining_id", sa.String(length=36), nullable=False),
        sa.Column("stage", ENUM, nullable=False),
        sa.Column("state", ENUM, nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("snapshot_id", SHA256, nullable=True),
        sa.Column("model", sa.String(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("reported_at", UTC, nullable=True),
        sa.Column("started_at", UTC, nullable=False),
        sa.Column("ended_at", UTC, nullable=True),
        sa.PrimaryKeyConstraint("retraining_id", name=op.f("pk_retraining")),
    )
    op.create_index(op.f("ix_retraining_stage"), "retraining", ["stage"])
    op.create_table(
        "lease",
        sa.Column("name", ENUM, nullable=False),
        sa.Column("holder", sa.String(), nullable=True),
        sa.Column("until", UTC, nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )


def downgrade() -> None:
    with op.batch_alter_table("activation", recreate="never") as activation:
        activation.drop_column("reason")
        activation.drop_column("kind")
    op.drop_table("lease")
    op.drop_index(op.f("ix_retraining_stage"), table_name="retraining")
    op.drop_table("retraining")
    op.drop_index(op.f("ix_drift_report_stage_at"), table_name="drift_report")
    op.drop_table("drift_report")
    op.drop_index(op.f("ix_shadow_score_at"), table_name="shadow_score")
    op.drop_table("shadow_score")
    op.drop_index(op.f("ix_shadow_stage"), table_name="shadow")
    op.drop_table("shadow")
    op.drop_index(op.f("ix_holdout_look_holdout_id"), table_name="holdout_look")
    op.drop_table("holdout_look")
    op.drop_index(op.f("ix_model_version_stage"), table_name="model_version")
    op.drop_table("model_version")

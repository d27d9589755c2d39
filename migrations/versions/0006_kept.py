"""Keep what a result was computed from, and let the images be purged.

Revision: 0006, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COMPUTED = {
    "torch_version": sa.String(),
    "cpu": sa.String(),
    "threads": sa.Integer(),
    "batch": sa.String(),
    "code_version": sa.String(),
}
"""What computed the number of a stage; unknown for rows from before."""


def upgrade() -> None:
    op.create_table(
        "kept",
        sa.Column("result_id", sa.String(length=36), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("crop_sha256", sa.String(length=64), nullable=True),
        sa.Column("slice_sha256", sa.String(length=64), nullable=False),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["result_id"], ["result.result_id"], name=op.f("fk_kept_result_id")
        ),
        sa.ForeignKeyConstraint(
            ["study_uid"], ["study.study_uid"], name=op.f("fk_kept_study_uid")
        ),
        sa.PrimaryKeyConstraint("result_id", name=op.f("pk_kept")),
    )
    for column in ("study_uid", "crop_sha256", "slice_sha256"):
        op.create_index(op.f(f"ix_kept_{column}"), "kept", [column], unique=False)
    with op.batch_alter_table("stage", recreate="never") as stage:
        for name, kind in COMPUTED.items():
            stage.add_column(sa.Column(name, kind, nullable=True))
    with op.batch_alter_table("result", recreate="never") as result:
        result.add_column(sa.Column("code_version", sa.String(), nullable=True))
    with op.batch_alter_table("instance", recreate="never") as instance:
        instance.add_column(
            sa.Column("purged_at", sa.DateTime(timezone=True), nullable=True)
        )
    with op.batch_alter_table("study", recreate="never") as study:
        study.add_column(
            sa.Column("purge_begun_at", sa.DateTime(timezone=True), nullable=True)
        )


def downgrade() -> None:
    with op.batch_alter_table("study", recreate="never") as study:
        study.drop_column("purge_begun_at")
    with op.batch_alter_table("instance", recreate="never") as instance:
        instance.drop_column("purged_at")
    with op.batch_alter_table("result", recreate="never") as result:
        result.drop_column("code_version")
    with op.batch_alter_table("stage", recreate="never") as stage:
        for name in reversed(COMPUTED):
            stage.drop_column(name)
    for column in ("slice_sha256", "crop_sha256", "study_uid"):
        op.drop_index(op.f(f"ix_kept_{column}"), table_name="kept")
    op.drop_table("kept")

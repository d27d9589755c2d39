"""Rectangles set by hand, documents about other studies, counts of the archive."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

CARRIER = "roi_carrier_sop_instance_uid"


def upgrade() -> None:
    op.create_table(
        "completeness",
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("examined_revision", sa.Integer(), nullable=False),
        sa.Column("counted_instances", sa.Integer(), nullable=True),
        sa.Column("unanswered", sa.Integer(), nullable=False),
        sa.Column("ask_after", sa.DateTime(timezone=True), nullable=True),
        sa.Column("asking_until", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["study_uid"], ["study.study_uid"], name=op.f("fk_completeness_study_uid")
        ),
        sa.PrimaryKeyConstraint("study_uid", name=op.f("pk_completeness")),
    )
    op.create_table(
        "annotation",
        sa.Column("document_uid", sa.String(length=64), nullable=False),
        sa.Column("image_uid", sa.String(length=64), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=True),
        sa.Column("patient_differs", sa.Boolean(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["document_uid"],
            ["instance.sop_instance_uid"],
            name=op.f("fk_annotation_document_uid"),
        ),
        sa.ForeignKeyConstraint(
            ["study_uid"], ["study.study_uid"], name=op.f("fk_annotation_study_uid")
        ),
        sa.PrimaryKeyConstraint(
            "document_uid", "image_uid", name=op.f("pk_annotation")
        ),
    )
    op.create_index(op.f("ix_annotation_study_uid"), "annotation", ["study_uid"])
    op.create_table(
        "manual_roi",
        sa.Column("manual_roi_id", sa.Integer(), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("laterality", sa.String(length=32), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("frame", sa.Integer(), nullable=False),
        sa.Column("x0", sa.Double(), nullable=True),
        sa.Column("y0", sa.Double(), nullable=True),
        sa.Column("x1", sa.Double(), nullable=True),
        sa.Column("y1", sa.Double(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("set_by", sa.String(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("side_stated", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_uid"], ["study.study_uid"], name=op.f("fk_manual_roi_study_uid")
        ),
        sa.ForeignKeyConstraint(
            ["sop_instance_uid"],
            ["instance.sop_instance_uid"],
            name=op.f("fk_manual_roi_sop_instance_uid"),
        ),
        sa.PrimaryKeyConstraint("manual_roi_id", name=op.f("pk_manual_roi")),
    )
    op.create_index(
        op.f("ix_manual_roi_study_uid_laterality"),
        "manual_roi",
        ["study_uid", "laterality"],
    )
    _carrier("VARCHAR(64)")


def downgrade() -> None:
    op.execute(f"UPDATE result SET {CARRIER} = '' WHERE {CARRIER} IS NULL")  # noqa: S608 - a constant
    _carrier("VARCHAR(64) DEFAULT '' NOT NULL")
    op.drop_table("manual_roi")
    op.drop_table("annotation")
    op.drop_table("completeness")


def _carrier(column: str) -> None:
    """Say anew whether a result may name no document that carried its rectangle.

    SQLite cannot change a column, and building the table anew would break the
    references to it: so the values go through a second column.
    """
    if op.get_bind().dialect.name == "postgresql":
        may = "SET" if "NOT NULL" in column else "DROP"
        op.execute(f"ALTER TABLE result ALTER COLUMN {CARRIER} {may} NOT NULL")
        return
    op.execute(f"ALTER TABLE result ADD COLUMN carrier_copy {column}")
    op.execute(f"UPDATE result SET carrier_copy = {CARRIER}")  # noqa: S608 - a constant
    op.execute(f"ALTER TABLE result DROP COLUMN {CARRIER}")
    op.execute(f"ALTER TABLE result RENAME COLUMN carrier_copy TO {CARRIER}")

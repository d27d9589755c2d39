"""Count what leaves no row, name the scanner of a result, index what is counted.

Revision: 0012, after 0009.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

INDEXES = (
    ("study", ("state", "reason")),
    ("delivery", ("state", "destination")),
    ("delivery", ("sent_at",)),
    ("case", ("pathway",)),
    ("result", ("discordant",)),
)


def upgrade() -> None:
    op.create_table(
        "counter",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("caller", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", "caller", "outcome", name=op.f("pk_counter")),
    )
    with op.batch_alter_table("result", recreate="never") as result:
        result.add_column(sa.Column("scanner", sa.String(), nullable=True))
    for table, columns in INDEXES:
        op.create_index(_name(table, columns), table, list(columns), unique=False)


def downgrade() -> None:
    for table, columns in reversed(INDEXES):
        op.drop_index(_name(table, columns), table_name=table)
    with op.batch_alter_table("result", recreate="never") as result:
        result.drop_column("scanner")
    op.drop_table("counter")


def _name(table: str, columns: tuple[str, ...]) -> str:
    return op.f(f"ix_{table}_{'_'.join(columns)}")

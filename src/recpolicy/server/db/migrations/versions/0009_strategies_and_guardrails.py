"""Profiles of users for strategies, the task of a ranked event, and the guardrails of both kinds of events.

Events of before are ranks of the caller's actions, without guardrails.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table and the columns."""
    op.create_table(
        "strategy_profiles",
        sa.Column("user_key", sa.String(1300), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_key", name="pk_strategy_profiles"),
    )
    op.add_column("rank_events", sa.Column("task", sa.String(16), nullable=True))
    for table in ("events", "rank_events"):
        op.add_column(table, sa.Column("guardrails", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Remove the columns and the table."""
    with op.batch_alter_table("rank_events", schema=None) as batch_op:
        batch_op.drop_column("guardrails")
        batch_op.drop_column("task")
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_column("guardrails")
    op.drop_table("strategy_profiles")

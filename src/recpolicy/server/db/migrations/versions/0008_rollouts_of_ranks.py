"""Ranked events say which variant of a rollout chose; those of before are the champion's."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and the index of the events of rollouts."""
    op.add_column("rank_events", sa.Column("variant", sa.String(16), nullable=False, server_default="champion"))
    op.add_column("rank_events", sa.Column("rollout", sa.Integer(), nullable=True))
    of_rollouts = sa.text("rollout IS NOT NULL")
    op.create_index(
        "ix_rank_events_rollout", "rank_events", ["rollout"], sqlite_where=of_rollouts, postgresql_where=of_rollouts
    )


def downgrade() -> None:
    """Remove them."""
    op.drop_index("ix_rank_events_rollout", "rank_events")
    with op.batch_alter_table("rank_events", schema=None) as batch_op:
        batch_op.drop_column("rollout")
        batch_op.drop_column("variant")

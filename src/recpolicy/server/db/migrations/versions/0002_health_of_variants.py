"""Health of the variants of a rollout, and no two rollouts at once."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go one step up."""
    op.create_table(
        "variant_health",
        sa.Column("rollout", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("variant", sa.String(length=16), nullable=False),
        sa.Column("worker", sa.String(length=64), nullable=False),
        sa.Column("minute", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("slow", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(precision=53), nullable=False),
        sa.Column("agreement", sa.Float(precision=53), nullable=False),
        sa.Column("gap", sa.Float(precision=53), nullable=False),
        sa.Column("dropped", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("rollout", "variant", "worker", "minute", name=op.f("pk_variant_health")),
    )
    running = sa.text("state = 'running'")
    op.create_index(
        op.f("ix_rollouts_state"), "rollouts", ["state"], unique=True, sqlite_where=running, postgresql_where=running
    )


def downgrade() -> None:
    """Go one step down."""
    op.drop_index(op.f("ix_rollouts_state"), "rollouts")
    op.drop_table("variant_health")

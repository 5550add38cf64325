"""Ranked events with their features, and the signals that reward them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "rank_events",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(256), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("slot_id", sa.String(256), nullable=True),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("user_key", sa.String(1300), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("policy_digest", sa.String(64), nullable=False),
        sa.Column("agent", sa.String(64), nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("context", sa.Text(), nullable=False),
        sa.Column("offers", sa.LargeBinary(), nullable=False),
        sa.Column("probabilities", sa.LargeBinary(), nullable=False),
        sa.Column("ranking", sa.LargeBinary(), nullable=False),
        sa.Column("imitated", sa.Boolean(), nullable=True),
        sa.Column("request_digest", sa.String(32), nullable=False),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("activated_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name="pk_rank_events"),
        sa.UniqueConstraint("id", "slot", name="uq_rank_events_id_slot"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rank_events_time", "rank_events", ["time"])
    op.create_table(
        "action_rows",
        sa.Column("digest", sa.LargeBinary(16), nullable=False),
        sa.Column("row", sa.Text(), nullable=False),
        sa.Column("last_used", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_action_rows"),
    )
    op.create_index("ix_action_rows_last_used", "action_rows", ["last_used"])
    op.create_table(
        "rank_signals",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("event_id", sa.String(256), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("signal_id", sa.String(256), nullable=True),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("value", sa.Float(53), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_rank_signals"),
        sa.ForeignKeyConstraint(
            ["event_id", "slot"], ["rank_events.id", "rank_events.slot"], name="fk_rank_signals_event_id_slot"
        ),
        sa.UniqueConstraint("event_id", "slot", "signal_id", name="uq_rank_signals_event_id_slot_signal_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "rank_settings",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_rank_settings"),
    )
    op.create_table(
        "rank_evaluations",
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("id", sa.String(256), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("start_time", sa.BigInteger(), nullable=False),
        sa.Column("end_time", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("result", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("kind", "id", name="pk_rank_evaluations"),
    )


def downgrade() -> None:
    """Remove the tables."""
    for table in ("rank_evaluations", "rank_settings", "rank_signals", "action_rows", "rank_events"):
        op.drop_table(table)

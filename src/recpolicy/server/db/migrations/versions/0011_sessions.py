"""Events of a session have its id and their step; events of before belong to no session."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_IN_SESSION = sa.text("session_id IS NOT NULL")


def upgrade() -> None:
    """Add the columns and their indexes."""
    op.add_column("events", sa.Column("session_id", sa.String(64), nullable=True))
    op.add_column("events", sa.Column("step", sa.Integer(), nullable=True))
    for columns in (["session_id", "seq"], ["user_key", "seq"]):
        op.create_index(
            f"ix_events_{'_'.join(columns)}", "events", columns, sqlite_where=_IN_SESSION, postgresql_where=_IN_SESSION
        )


def downgrade() -> None:
    """Remove the columns and their indexes."""
    for name in ("ix_events_user_key_seq", "ix_events_session_id_seq"):
        op.drop_index(name, "events")
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_column("step")
        batch_op.drop_column("session_id")

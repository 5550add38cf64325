"""Ratings of users who learn while the server serves. Feedback of before moves no posterior."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "user_ratings",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("user_key", sa.String(1300), nullable=False),
        sa.Column("item", sa.String(1300), nullable=False),
        sa.Column("rating", sa.Float(53), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_user_ratings"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_user_ratings_user_key_seq", "user_ratings", ["user_key", "seq"])
    op.create_index("ix_user_ratings_time", "user_ratings", ["time"])


def downgrade() -> None:
    """Remove the table."""
    op.drop_table("user_ratings")

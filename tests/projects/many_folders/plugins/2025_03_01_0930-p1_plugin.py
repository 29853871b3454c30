"""A plugin's table, on a line of its own."""

from alembic import op

revision = "p1"
down_revision = None
branch_labels = ("plugin",)


def upgrade():
    op.execute("CREATE TABLE plugin (id int PRIMARY KEY)")


def downgrade():
    op.execute("DROP TABLE plugin")

"""${message}

What it does: <tables and columns, and why>.

Locks: <per table the lock mode, for how long and on how many rows; what waits meanwhile>.

Undo: <what the downgrade does>. It loses <which rows and columns, or "nothing">.

Revision: ${up_revision}
Revises: ${down_revision | comma,n}
Created: ${create_date.date()}
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision: str = "${up_revision}"
down_revision: str | tuple[str, ...] | None = ${repr(down_revision).replace("'", '"')}
branch_labels: str | tuple[str, ...] | None = ${repr(branch_labels).replace("'", '"')}
depends_on: str | tuple[str, ...] | None = ${repr(depends_on).replace("'", '"')}


def upgrade() -> None:
    """<what it does, in one line>."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """<what it undoes, in one line>."""
    ${downgrades if downgrades else "pass"}

<%
    title = message if " " in message else message.replace("_", " ")
    title = title[:1].upper() + title[1:] + ("" if title[-1:] in (".", "?", "!") else ".")
    code = f"{upgrades or ''}\n{downgrades or ''}"
    is_blank = "op." not in code
    # A blank one will use both; `make fmt` takes the mark away then.
    mark = "  # noqa: F401" if is_blank else ""
%>\
"""${title}

What it does: <tables and columns, and why>.

Locks: <per table the lock mode, for how long and on how many rows; what waits meanwhile>.

Undo: <what the downgrade does>. It loses <which rows and columns, or "nothing">.

Revision: ${up_revision}
Revises: ${down_revision | comma,n}
Created: ${create_date.date()}
"""

from __future__ import annotations

% if is_blank or "sa." in code:
import sqlalchemy as sa${mark}
% endif
from alembic import op${mark}
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

"""What `shop db upgrade` does before it calls Alembic."""

import sys

sys.path.insert(0, ".")

from shop import instance

instance.start()

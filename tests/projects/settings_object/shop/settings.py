"""The application's settings: read from its environment once, when this is imported."""

import os

from sqlalchemy.engine import URL


class Settings:
    host = os.environ.get("SHOP_DB_HOST", "db.invalid")
    port = int(os.environ.get("SHOP_DB_PORT", "5432"))
    user = os.environ.get("SHOP_DB_USER", "shop")
    password = os.environ.get("SHOP_DB_PASSWORD", "")
    name = os.environ.get("SHOP_DB_NAME", "shop")

    @property
    def url(self):
        return URL.create(
            "postgresql+psycopg2", self.user, self.password or None, self.host, self.port, self.name
        )


settings = Settings()

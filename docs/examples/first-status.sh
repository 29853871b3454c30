export DATABASE_URL="${DATABASE_URL:-postgresql://reader@db.example.org/shop}"
APP="${APP:-/srv/shop}"

papermill notebooks/status.ipynb status.ipynb \
    -r alembic_ini "$APP/alembic.ini" -r database env:DATABASE_URL
jupyter nbconvert --to html --no-input --log-level WARN status.ipynb

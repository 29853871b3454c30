#!/bin/sh
# Verify a database and say nothing, or print what failed and exit as papermill did: cron mails
# what a job prints to MAILTO. 75 ("try again later") says that last night's is still at work.
set -u
: "${PLAYBOOK:?is not set: the folder of this checkout}"
: "${ALEMBIC_INI:?is not set: the path of the project's alembic.ini}"
: "${TARGET:?is not set: what the parameter database takes}"
: "${STATE:?is not set: a folder for the executed notebooks and the lock}"

umask 077 # an executed notebook may show rows
mkdir -p "$STATE" || exit
exec 9>"$STATE/lock"
if ! flock --nonblock 9; then
    echo "verify of $TARGET is still running since the last time"
    exit 75
fi

day=$(date +%A) # seven notebooks are kept
"$PLAYBOOK/.venv/bin/papermill" --no-progress-bar "$PLAYBOOK/notebooks/verify.ipynb" \
    "$STATE/verify-$day.ipynb" -r alembic_ini "$ALEMBIC_INI" -r database "$TARGET" \
    >"$STATE/verify-$day.log" 2>&1 9>&-
code=$?
if [ "$code" -ne 0 ]; then
    echo "verify of $TARGET failed (exit code $code); see $STATE/verify-$day.ipynb"
    tail -n 20 "$STATE/verify-$day.log"
fi
exit "$code"

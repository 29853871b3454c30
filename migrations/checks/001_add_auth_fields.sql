-- Data checks of 001_add_auth_fields; they hold from there on. Each query returns the rows that
-- break its rule, and passes when it returns none.

-- name: users_have_an_email
-- Users whose address is missing or cannot be one: no @, nothing before or after it, or blanks.
SELECT id, username, email
FROM users
WHERE email IS NULL OR email !~ '^[^@[:space:]]+@[^@[:space:]]+$'
ORDER BY id;

-- name: emails_are_unique_in_any_case
-- Addresses that more than one user has, when upper and lower case are taken as the same.
SELECT lower(email) AS email, count(*) AS users, min(id) AS oldest_id
FROM users
GROUP BY lower(email)
HAVING count(*) > 1
ORDER BY lower(email);

-- name: users_have_their_own_user_id
-- Public ids that are missing or that more than one user has.
SELECT user_id, count(*) AS users, min(id) AS oldest_id
FROM users
GROUP BY user_id
HAVING user_id IS NULL OR count(*) > 1
ORDER BY user_id;

-- name: passwords_are_hashed_or_locked
-- Users whose password is neither locked ('!') nor a hash in the form $method$...: perhaps a
-- password in plain text. The value itself is not shown.
SELECT id, username, length(hashed_password) AS length
FROM users
WHERE hashed_password IS NULL OR hashed_password !~ '^(!|[$][a-z0-9-]+[$].{20,})$'
ORDER BY id;

-- name: users_changed_after_their_creation
-- Users who were changed or signed in before they were created.
SELECT id, username, created_at, updated_at, last_login_at
FROM users
WHERE updated_at IS NULL OR updated_at < created_at OR last_login_at < created_at
ORDER BY id;

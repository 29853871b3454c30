-- Data checks of 000_baseline; they hold from there on. Each query returns the rows that break its
-- rule, and passes when it returns none.

-- name: sessions_have_a_user
-- Conversations whose user does not exist, as a restore without its foreign keys leaves them.
SELECT s.id AS session_id, s.user_id
FROM conversation_sessions AS s
LEFT JOIN users AS u ON u.id = s.user_id
WHERE u.id IS NULL
ORDER BY s.id;

-- name: messages_have_a_session
-- Messages whose conversation does not exist.
SELECT m.id AS message_id, m.session_id
FROM messages AS m
LEFT JOIN conversation_sessions AS s ON s.id = m.session_id
WHERE s.id IS NULL
ORDER BY m.id;

-- name: messages_are_numbered_without_gaps
-- Conversations whose messages are not numbered 0, 1, 2 and so on: messages were lost.
SELECT session_id, count(*) AS messages, min(position) AS first, max(position) AS last
FROM messages
GROUP BY session_id
HAVING min(position) <> 0 OR max(position) <> count(*) - 1
ORDER BY session_id;

-- name: messages_are_in_order_of_time
-- Messages that are older than the one before them in the same conversation.
SELECT message_id, session_id, position, created_at, previous_at
FROM (
    SELECT id AS message_id, session_id, position, created_at,
           lag(created_at) OVER (PARTITION BY session_id ORDER BY position) AS previous_at
    FROM messages
) AS ordered
WHERE created_at < previous_at
ORDER BY session_id, position;

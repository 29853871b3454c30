-- Data checks of 002_add_rag_tables; they hold from there on. Each query returns the rows that
-- break its rule, and passes when it returns none.

-- name: rag_rows_have_a_parent
-- Corpora without their user, documents without their corpus and chunks without their document.
SELECT 'rag_corpora' AS table_name, c.id, c.user_id::text AS missing
FROM rag_corpora AS c
LEFT JOIN users AS u ON u.user_id = c.user_id
WHERE u.id IS NULL
UNION ALL
SELECT 'rag_documents', d.id, d.corpus_id::text
FROM rag_documents AS d
LEFT JOIN rag_corpora AS c ON c.id = d.corpus_id
WHERE c.id IS NULL
UNION ALL
SELECT 'rag_chunks', k.id, k.document_id::text
FROM rag_chunks AS k
LEFT JOIN rag_documents AS d ON d.id = k.document_id
WHERE d.id IS NULL
ORDER BY table_name, id;

-- name: content_hashes_are_right
-- Documents whose content_sha256 is not the hash of their content: one of the two was changed.
SELECT id AS document_id, title, content_sha256
FROM rag_documents
WHERE content_sha256 <> encode(sha256(convert_to(content, 'UTF8')), 'hex')
ORDER BY id;

-- name: chunks_are_numbered_without_gaps
-- Documents whose chunks are not numbered 0, 1, 2 and so on: chunks were lost.
SELECT document_id, count(*) AS chunks, min(chunk_index) AS first, max(chunk_index) AS last
FROM rag_chunks
GROUP BY document_id
HAVING min(chunk_index) <> 0 OR max(chunk_index) <> count(*) - 1
ORDER BY document_id;

-- name: ready_documents_can_be_searched
-- Documents that are marked ready and have no chunk, or a chunk without its embedding.
SELECT d.id AS document_id, d.title, count(k.id) AS chunks, count(k.embedding) AS embedded
FROM rag_documents AS d
LEFT JOIN rag_chunks AS k ON k.document_id = d.id
WHERE d.status = 'ready'
GROUP BY d.id, d.title
HAVING count(k.id) = 0 OR count(k.embedding) < count(k.id)
ORDER BY d.id;

-- name: embeddings_have_the_length_of_their_corpus
-- Chunks whose embedding has another length than their corpus says: made by another model.
SELECT k.id AS chunk_id, cardinality(k.embedding) AS length, c.embedding_dimensions AS expected
FROM rag_chunks AS k
JOIN rag_documents AS d ON d.id = k.document_id
JOIN rag_corpora AS c ON c.id = d.corpus_id
WHERE cardinality(k.embedding) <> c.embedding_dimensions
ORDER BY k.id;

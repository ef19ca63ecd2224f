-- Chunks as a RAG application has them: French and Arabic, some with quotes and line breaks, metadata.
TRUNCATE chunks;
INSERT INTO chunks (namespace, document_id, chunk_index, content, metadata, token_count)
SELECT 'grade-12-' || i % 5, md5((i / 50)::text)::uuid, i % 50,
       (SELECT string_agg(CASE (i + k) % 3
                WHEN 0 THEN 'La dérivée d''une fonction "f" en a est la limite du taux d''accroissement. '
                WHEN 1 THEN 'مشتقة الدالة عند نقطة هي نهاية معدل التغير عند تلك النقطة. '
                ELSE E'Théorème :\n les fonctions dérivables sont continues ' || md5((i * k)::text) || ' '
              END, '') FROM generate_series(1, 16) k),
       jsonb_build_object('lang', CASE i % 2 WHEN 0 THEN 'fr' ELSE 'ar' END, 'page', i % 300,
                          'title', 'Chapitre ' || i % 20), 300 + i % 100
FROM generate_series(1, :chunks) i;
VACUUM ANALYZE chunks;

-- Version 3, once `facts` has them.

DROP INDEX records_time;
DROP INDEX records_trace;
DROP INDEX records_decision_id;
ALTER TABLE records DROP COLUMN time_ns;
ALTER TABLE records DROP COLUMN trace;
ALTER TABLE records DROP COLUMN span;
ALTER TABLE records DROP COLUMN kind;
ALTER TABLE records DROP COLUMN event;
ALTER TABLE records DROP COLUMN direction;
ALTER TABLE records DROP COLUMN source;
ALTER TABLE records DROP COLUMN destination;
ALTER TABLE records DROP COLUMN method;
ALTER TABLE records DROP COLUMN path;
ALTER TABLE records DROP COLUMN status;
ALTER TABLE records DROP COLUMN decision;
ALTER TABLE records DROP COLUMN decision_id;
ALTER TABLE records DROP COLUMN policy;
ALTER TABLE records DROP COLUMN reason;

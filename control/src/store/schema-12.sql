-- Version 12: which sinks are told of an alert.

ALTER TABLE alerts ADD COLUMN notify TEXT; -- names of sinks as JSON, as the rule had them; none: all

//! From an expression to SQL: of records one by one, and of what sealed segments hold.
//!
//! The text of SQL is put together from constants alone; whatever was asked for is bound. Of a tally or a segment it
//! can often not be told whether its records match: then the question is whether some may, or whether all must.

use rusqlite::Connection;
use rusqlite::types::Value as Bound;

use crate::search::{Compare, Expression, RecordId, Shared, Subject, Test, Value};
use crate::store::{StoreError, words};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Of {
    /// A row of `facts`.
    Record,
    /// A row of `tallies`: may one of its records match, or must all of them.
    Tally(Sure),
    /// A row of `sealed`, by its times alone.
    Segment(Sure),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Sure {
    May,
    Must,
}

/// A condition and the values that are bound in it, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::store) struct Sql {
    pub(in crate::store) text: String,
    pub(in crate::store) values: Vec<Bound>,
}

/// Lists up to this length are written out.
const SHORT_LIST: usize = 8;

pub(in crate::store) fn compile(
    connection: &Connection,
    expression: &Expression,
    of: Of,
) -> Result<Sql, StoreError> {
    let mut sql = Sql::default();
    Compiler { connection, sql: &mut sql }.expression(expression, of)?;
    Ok(sql)
}

struct Compiler<'c> {
    connection: &'c Connection,
    sql: &'c mut Sql,
}

impl Compiler<'_> {
    fn expression(&mut self, expression: &Expression, of: Of) -> Result<(), StoreError> {
        match expression {
            Expression::All(parts) => self.joined(parts, (" AND ", "1"), of),
            Expression::Any(parts) => self.joined(parts, (" OR ", "0"), of),
            Expression::Not(inner) => {
                self.text("NOT ");
                self.expression(inner, of.negated())
            }
            Expression::Is(subject, test) => self.leaf(subject, test, of),
        }
    }

    fn joined(
        &mut self,
        parts: &[Expression],
        (word, none): (&'static str, &'static str),
        of: Of,
    ) -> Result<(), StoreError> {
        // What costs most comes last: SQLite asks from left to right and stops as soon as it knows.
        let (slow, fast): (Vec<_>, Vec<_>) = parts.iter().partition(|part| part.is_slow());
        self.text("(");
        for (at, part) in fast.into_iter().chain(slow).enumerate() {
            self.text(if at == 0 { "" } else { word });
            self.expression(part, of)?;
        }
        self.text(if parts.is_empty() { none } else { "" });
        self.text(")");
        Ok(())
    }

    fn leaf(&mut self, subject: &Subject, test: &Test, of: Of) -> Result<(), StoreError> {
        match (of, subject) {
            (Of::Record | Of::Tally(_), Subject::Shared(shared)) => {
                return self.shared(*shared, test, of);
            }
            (Of::Record, subject) => self.of_record(subject, test),
            (Of::Tally(sure) | Of::Segment(sure), Subject::Time) => {
                self.range(("first_ns", "last_ns"), test, sure)
            }
            (Of::Tally(sure), Subject::Duration) => {
                self.range(("shortest_us", "longest_us"), test, sure)
            }
            (Of::Tally(sure) | Of::Segment(sure), _) => self.text(sure.unknown()),
        }
        Ok(())
    }

    fn shared(&mut self, shared: Shared, test: &Test, of: Of) -> Result<(), StoreError> {
        let column = shared.name();
        if matches!(shared, Shared::Status | Shared::DryRun) {
            self.column(column, test);
            return Ok(());
        }
        let numbers = match test {
            Test::Exists => {
                self.text(column);
                self.text(" IS NOT NULL");
                return Ok(());
            }
            Test::Is(_, value) => self.numbers(std::slice::from_ref(value))?,
            Test::In(values) => self.numbers(values)?,
            Test::Like(glob) => words::matching(self.connection, |text| glob.matches(text))?,
            Test::Between(..) => Vec::new(),
        };
        // Texts without a number of their own stand in the span only.
        self.text("(");
        self.list(column, numbers.into_iter().map(Bound::from).collect());
        self.text(" OR (");
        self.text(column);
        self.text(" IS 0 AND ");
        match of {
            Of::Record => self.attribute(shared.attribute(), test),
            Of::Tally(sure) | Of::Segment(sure) => self.text(sure.unknown()),
        }
        self.text("))");
        Ok(())
    }

    fn numbers(&self, values: &[Value]) -> Result<Vec<i64>, StoreError> {
        let mut numbers = Vec::new();
        for value in values {
            if let Value::Text(text) = value {
                let number = words::number(self.connection, text)?;
                numbers.extend(number.filter(|number| *number != words::OTHER));
            }
        }
        Ok(numbers)
    }

    fn of_record(&mut self, subject: &Subject, test: &Test) {
        match subject {
            Subject::Time => self.column("time_ns", test),
            Subject::Duration => self.column("duration_us", test),
            Subject::Path => self.column("path", test),
            Subject::Trace => self.column("trace", test),
            Subject::Span => self.column("span", test),
            Subject::DecisionId => {
                self.text("(decision IS NOT NULL AND ");
                self.column("coalesce(decision_id, lower(hex(span)))", test);
                self.text(")");
            }
            Subject::Id => self.record(test),
            Subject::Attribute(name) => self.attribute(name, test),
            Subject::Shared(_) => {}
        }
    }

    /// A column that holds the very value. What is absent is neither equal nor anything else.
    fn column(&mut self, column: &'static str, test: &Test) {
        match test {
            Test::Exists => {
                self.text(column);
                self.text(" IS NOT NULL");
            }
            Test::Is(Compare::Equal, value) => {
                self.text(column);
                self.text(" IS ?");
                self.sql.values.push(bound(value));
            }
            Test::Is(compare, value) => {
                self.text("coalesce(");
                self.text(column);
                self.text(" ");
                self.text(compare.sign());
                self.text(" ?, 0)");
                self.sql.values.push(bound(value));
            }
            Test::Between(low, high) => {
                self.text("coalesce(");
                self.text(column);
                self.text(" BETWEEN ? AND ?, 0)");
                self.sql.values.extend([Bound::from(*low), Bound::from(*high)]);
            }
            Test::In(values) => self.list(column, values.iter().map(bound).collect()),
            Test::Like(glob) => {
                self.text("is_like(");
                self.text(column);
                self.text(", ?)");
                self.sql.values.push(glob.pattern().into());
            }
        }
    }

    fn list(&mut self, column: &'static str, values: Vec<Bound>) {
        // JSON has no bytes.
        let has_bytes = values.iter().any(|value| matches!(value, Bound::Blob(_)));
        if values.len() <= SHORT_LIST || has_bytes {
            self.text("(");
            for at in 0..values.len() {
                self.text(if at == 0 { "" } else { " OR " });
                self.text(column);
                self.text(" IS ?");
            }
            self.text(if values.is_empty() { "0)" } else { ")" });
            self.sql.values.extend(values);
            return;
        }
        self.text("coalesce(");
        self.text(column);
        self.text(" IN (SELECT value FROM json_each(?)), 0)");
        let list: Vec<serde_json::Value> = values
            .into_iter()
            .map(|value| match value {
                Bound::Integer(number) => number.into(),
                Bound::Text(text) => text.into(),
                _ => serde_json::Value::Null,
            })
            .collect();
        self.sql.values.push(serde_json::Value::from(list).to_string().into());
    }

    /// A number of which the least and the greatest are known.
    fn range(&mut self, ends: (&'static str, &'static str), test: &Test, sure: Sure) {
        match test {
            Test::Exists => self.text("1"),
            Test::Is(Compare::Equal, Value::Number(number)) => {
                self.between(ends, (*number, *number), sure);
            }
            Test::Is(compare, Value::Number(number)) => {
                let is_below = matches!(compare, Compare::Less | Compare::LessOrEqual);
                let (first, last) = ends;
                self.text(if is_below == (sure == Sure::May) { first } else { last });
                self.text(" ");
                self.text(compare.sign());
                self.text(" ?");
                self.sql.values.push((*number).into());
            }
            Test::Between(low, high) => self.between(ends, (*low, *high), sure),
            Test::In(values) => {
                self.text("(0");
                for value in values {
                    if let Value::Number(number) = value {
                        self.text(" OR ");
                        self.between(ends, (*number, *number), sure);
                    }
                }
                self.text(")");
            }
            Test::Is(..) | Test::Like(_) => self.text(sure.unknown()),
        }
    }

    fn between(
        &mut self,
        (first, last): (&'static str, &'static str),
        (low, high): (i64, i64),
        sure: Sure,
    ) {
        let (least, greatest) = if sure == Sure::May { (last, first) } else { (first, last) };
        self.text("(");
        self.text(least);
        self.text(" >= ? AND ");
        self.text(greatest);
        self.text(" <= ?)");
        self.sql.values.extend([Bound::from(low), Bound::from(high)]);
    }

    fn record(&mut self, test: &Test) {
        let values = match test {
            Test::Is(Compare::Equal, value) => std::slice::from_ref(value),
            Test::In(values) => values.as_slice(),
            _ => return self.text(if *test == Test::Exists { "1" } else { "0" }),
        };
        self.text("(0");
        for value in values {
            if let Value::Record(RecordId { boot, lane, sequence }) = value {
                self.text(
                    " OR facts.id IN (SELECT records.id FROM records JOIN emitters ON emitters.id = records.emitter
                     WHERE emitters.boot = ? AND lane = ? AND sequence = ?)",
                );
                let values = [boot.clone().into(), (*lane).into(), (*sequence).into()];
                self.sql.values.extend::<[Bound; 3]>(values);
            }
        }
        self.text(")");
    }

    fn attribute(&mut self, name: &str, test: &Test) {
        match test {
            Test::Exists => self.holds(name, "has", Bound::Null),
            Test::Is(compare, value) => self.holds(name, compare.sign(), bound(value)),
            Test::Like(glob) => self.holds(name, "~", glob.pattern().into()),
            Test::In(values) => {
                self.text("(0");
                for value in values {
                    self.text(" OR ");
                    self.holds(name, "=", bound(value));
                }
                self.text(")");
            }
            Test::Between(low, high) => {
                self.text("(");
                self.holds(name, ">=", (*low).into());
                self.text(" AND ");
                self.holds(name, "<=", (*high).into());
                self.text(")");
            }
        }
    }

    fn holds(&mut self, name: &str, sign: &'static str, value: Bound) {
        self.text(
            "attribute_holds((SELECT resources.bytes FROM records JOIN resources ON resources.id = records.resource
                 WHERE records.id = facts.id),
             (SELECT bytes FROM records WHERE records.id = facts.id), ?, ?, ?)",
        );
        self.sql.values.extend([name.to_owned().into(), sign.to_owned().into(), value]);
    }

    fn text(&mut self, text: &'static str) {
        self.sql.text.push_str(text);
    }
}

impl Of {
    /// What has to be asked of the inner part of a negation.
    fn negated(self) -> Self {
        match self {
            Self::Record => Self::Record,
            Self::Tally(sure) => Self::Tally(sure.negated()),
            Self::Segment(sure) => Self::Segment(sure.negated()),
        }
    }
}

impl Sure {
    fn negated(self) -> Self {
        match self {
            Self::May => Self::Must,
            Self::Must => Self::May,
        }
    }

    /// The answer where nothing is known.
    fn unknown(self) -> &'static str {
        match self {
            Self::May => "1",
            Self::Must => "0",
        }
    }
}

fn bound(value: &Value) -> Bound {
    match value {
        Value::Text(text) => text.clone().into(),
        Value::Number(number) => (*number).into(),
        Value::Bytes(bytes) => bytes.clone().into(),
        Value::Record(_) => Bound::Null,
    }
}

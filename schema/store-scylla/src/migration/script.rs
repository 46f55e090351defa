//! Splits a file of CQL into statements.

/// The statements of a script, without comments (`--` to the end of the line) and empty statements.
/// Text in quotes is kept as it is.
pub(super) fn statements(script: &str) -> Vec<String> {
    let mut statements = vec![String::new()];
    let mut quoted = false;
    let mut rest = script.chars().peekable();
    while let Some(c) = rest.next() {
        if !quoted && c == '-' && rest.peek() == Some(&'-') {
            // The line end stays: it may be the only separator between two words.
            while rest.next_if(|c| *c != '\n').is_some() {}
            continue;
        }
        if !quoted && c == ';' {
            statements.push(String::new());
            continue;
        }
        quoted ^= c == '\'';
        if let Some(statement) = statements.last_mut() {
            statement.push(c);
        }
    }
    statements.iter().map(|statement| statement.trim()).filter(|s| !s.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_empty_statements_are_left_out() {
        let script = "-- begin; here\nCREATE TABLE a ( -- a table;\n  b int\n);\n;\n\nDROP x;-- end";
        assert_eq!(statements(script), ["CREATE TABLE a ( \n  b int\n)", "DROP x"]);
        assert!(statements("-- nothing\n ; ;\n").is_empty());
        assert_eq!(statements("one - two"), ["one - two"]);
    }

    #[test]
    fn quoted_text_is_kept() {
        let script = "INSERT 'a;b -- c', 'it''s; -- so';SELECT 1";
        assert_eq!(statements(script), ["INSERT 'a;b -- c', 'it''s; -- so'", "SELECT 1"]);
    }

    #[test]
    fn every_migration_may_be_applied_twice() {
        for (number, migration) in (1..).zip(super::super::ALL) {
            assert_eq!(migration.number, number, "numbered without gaps");
            for statement in statements(migration.cql) {
                assert!(statement.contains("IF NOT EXISTS"), "{statement}");
            }
        }
    }
}

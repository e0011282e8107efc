//! Variables that switch something on, as its flag does.

/// Reads one: `1`, `true`, `yes` and `on` switch it on, and an empty variable is an unset one.
pub(super) fn read(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "" | "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("give 1 or 0".to_owned()),
    }
}

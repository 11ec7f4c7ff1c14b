//! The detection rules that Picket comes with: the files of `control/rules`, as they stand there.

/// Name and text of each file.
pub const FILES: [(&str, &str); 7] = [
    ("access.yaml", include_str!("../rules/access.yaml")),
    ("audit.yaml", include_str!("../rules/audit.yaml")),
    ("behaviour.yaml", include_str!("../rules/behaviour.yaml")),
    ("connections.yaml", include_str!("../rules/connections.yaml")),
    ("mesh.yaml", include_str!("../rules/mesh.yaml")),
    ("protocol.yaml", include_str!("../rules/protocol.yaml")),
    ("tokens.yaml", include_str!("../rules/tokens.yaml")),
];

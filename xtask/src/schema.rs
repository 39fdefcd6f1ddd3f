//! Reduces the published definitions of Kubernetes' types to the table of facts in orchestrator/api/schema.

/// Not wired yet: the extraction lands with the table itself.
pub fn run() -> anyhow::Result<()> {
    anyhow::bail!("the schema step has not landed yet")
}

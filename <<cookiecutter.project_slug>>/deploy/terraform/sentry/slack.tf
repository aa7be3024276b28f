variable "slack" {
  description = "The workspace, as Sentry's integration for Slack names it, and the channel that is told beside the mail; null for mail alone"
  type        = object({ workspace = string, channel = string })
  default     = null

  validation {
    condition     = var.slack == null ? true : length(var.slack.workspace) > 0 && can(regex("^#[^#[:space:]A-Z]+$", var.slack.channel))
    error_message = "The workspace is not empty, and the channel is a name such as #parcels-alerts."
  }
}

data "sentry_organization_integration" "slack" {
  count = var.slack == null ? 0 : 1

  organization = var.organization
  provider_key = "slack"
  name         = var.slack.workspace
}

locals {
  actions = concat(
    [{ email = { target_type = "team", target_id = data.sentry_team.notified.internal_id } }],
    [for each in data.sentry_organization_integration.slack : {
      slack = { integration_id = each.id, channel_name = var.slack.channel, tags = "environment,release" }
    }],
  )
}

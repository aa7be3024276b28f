locals {
  actions = [{ email = { target_type = "team", target_id = data.sentry_team.notified.internal_id } }]
}

<% set slug = cookiecutter.project_slug %>
terraform {
  required_version = ">= 1.5"

  required_providers {
    sentry = {
      source  = "jianyuan/sentry"
      version = "0.15.4"
    }
  }
}

provider "sentry" {
  token    = var.sentry_token
  base_url = var.sentry_url
}

data "sentry_team" "notified" {
  organization = var.organization
  slug         = var.team
}

# Made by Sentry with the project: it groups errors into issues.
data "sentry_project_error_monitor" "errors" {
  organization = var.organization
  project      = var.project
}

resource "sentry_alert" "new_issue" {
  name              = "<< slug >>: a new issue"
  organization      = var.organization
  environment       = var.environment
  monitor_ids       = [data.sentry_project_error_monitor.errors.id]
  frequency_minutes = 1440

  trigger_conditions = [{ first_seen_event = {} }]

  action_filters = [{
    logic_type = "all"
    conditions = []
    actions    = local.actions
  }]
}

# Without a trigger each event is looked at; an issue is told of again after an hour.
resource "sentry_alert" "many_events" {
  name              = "<< slug >>: an issue with more than 10 events in a minute"
  organization      = var.organization
  environment       = var.environment
  monitor_ids       = [data.sentry_project_error_monitor.errors.id]
  frequency_minutes = 60

  trigger_conditions = []

  action_filters = [{
    logic_type = "all"
    conditions = [{ event_frequency_count = { interval = "1m", value = 10 } }]
    actions    = local.actions
  }]
}

resource "sentry_alert" "many_users" {
  name              = "<< slug >>: an issue that more than 100 users meet in an hour"
  organization      = var.organization
  environment       = var.environment
  monitor_ids       = [data.sentry_project_error_monitor.errors.id]
  frequency_minutes = 60

  trigger_conditions = []

  action_filters = [{
    logic_type = "all"
    conditions = [{ event_unique_user_frequency_count = { interval = "1h", value = 100 } }]
    actions    = local.actions
  }]
}

output "alert_ids" {
  description = "The numbers of the alerts in Sentry"
  value       = [sentry_alert.new_issue.id, sentry_alert.many_events.id, sentry_alert.many_users.id]
}

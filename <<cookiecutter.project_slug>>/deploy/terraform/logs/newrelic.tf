<% import "quote.j2" as quote %>
<% import "log_store.j2" as store with context %>
terraform {
  required_version = ">= 1.5"

  required_providers {
    newrelic = {
      source  = "newrelic/newrelic"
      version = "3.76.3"
    }
  }
}

variable "newrelic_api_key" {
  description = "User key: API keys, Create a key, type User"
  type        = string
  sensitive   = true

  validation {
    condition     = length(var.newrelic_api_key) > 0
    error_message = "The user key is empty."
  }
}

variable "account_id" {
  description = "Number of the account that lines are sent to"
  type        = number

  validation {
    condition     = var.account_id > 0 && floor(var.account_id) == var.account_id
    error_message = "The account is a whole number above 0."
  }
}

variable "region" {
  description = "Data centre of the account: US or EU"
  type        = string
  default     = "US"

  validation {
    condition     = contains(["US", "EU"], var.region)
    error_message = "The region is US or EU."
  }
}

provider "newrelic" {
  account_id = var.account_id
  api_key    = var.newrelic_api_key
  region     = var.region
}

resource "newrelic_alert_policy" "lines" {
  name                = "<< cookiecutter.project_slug >>: log lines"
  incident_preference = "PER_CONDITION"
}

resource "newrelic_nrql_alert_condition" "errors" {
  for_each = var.environments

  policy_id   = newrelic_alert_policy.lines.id
  type        = "static"
  name        = "<< cookiecutter.project_slug >> ${each.value}: error lines"
  description = "More than ${var.error_lines} lines at ERROR or above within five minutes. docs/log-queries.md, Errors of the last hour, shows them."
  enabled     = true

  nrql {
    query = "SELECT count(*) FROM Log WHERE << store.fields.service >> = '<< cookiecutter.project_slug >>' AND << store.fields.environment >> = '${each.value}' AND << store.fields.level >> IN ('ERROR', 'CRITICAL')"
  }

  # Error lines come now and then: a window is counted a minute after its last line.
  aggregation_window           = 300
  aggregation_method           = "event_timer"
  aggregation_timer            = "60"
  violation_time_limit_seconds = 86400

  critical {
    operator              = "above"
    threshold             = var.error_lines
    threshold_duration    = 300
    threshold_occurrences = "at_least_once"
  }
}

resource "newrelic_one_dashboard" "lines" {
  name        = "<< cookiecutter.project_slug >>: log lines"
  permissions = "public_read_write"

  page {
    name = "Log lines"
<% for each in store.questions if "_ID" not in store.queries[each.key] %>

    widget_table {
      title  = << quote.hcl(each.title) >>
      row    = << 1 + 4 * (loop.index0 // 2) >>
      column = << 1 + 6 * (loop.index0 % 2) >>
      width  = 6
      height = 4

      nrql_query {
        query = << quote.hcl(store.queries[each.key]) | replace("\n", " ") >>
      }
    }
<% endfor %>
  }
}

output "dashboard" {
  description = "Address of the dashboard"
  value       = newrelic_one_dashboard.lines.permalink
}

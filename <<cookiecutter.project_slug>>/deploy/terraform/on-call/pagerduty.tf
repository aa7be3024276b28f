<% set slug = cookiecutter.project_slug %>
terraform {
  required_version = ">= 1.5"

  required_providers {
    pagerduty = {
      source  = "PagerDuty/pagerduty"
      version = "3.32.4"
    }
  }
}

provider "pagerduty" {
  token          = var.pagerduty_token
  service_region = var.service_region
}

locals {
  week   = 7 * 24 * 60 * 60
  people = toset(concat(flatten([for each in values(var.rotations) : each.people]), tolist(var.escalate_to)))

  # Whose turn is next is called second: the same rotation, one person further on.
  schedules = merge(
    { for name, each in var.rotations : "${name} first" => merge(each, { level = 1 }) },
    {
      for name, each in var.rotations : "${name} second" => merge(each, {
        level  = 2
        people = concat(slice(each.people, 1, length(each.people)), slice(each.people, 0, 1))
      }) if length(each.people) > 1
    },
  )
}

data "pagerduty_user" "of" {
  for_each = local.people

  email = each.value
}

# Deprecated for pagerduty_schedulev2, which PagerDuty refuses to accounts outside its early access.
resource "pagerduty_schedule" "of" {
  for_each = local.schedules

  name        = "<< slug >>: ${each.key}"
  description = "Who is on call for << slug >>"
  time_zone   = each.value.time_zone

  layer {
    name                         = "weekly"
    start                        = each.value.first_handoff
    rotation_virtual_start       = each.value.first_handoff
    rotation_turn_length_seconds = local.week
    users                        = [for email in each.value.people : data.pagerduty_user.of[email].id]

    dynamic "restriction" {
      for_each = each.value.hours < 24 ? [each.value] : []

      content {
        type              = "daily_restriction"
        start_time_of_day = substr(restriction.value.first_handoff, 11, 8)
        duration_seconds  = restriction.value.hours * 60 * 60
      }
    }
  }
}

resource "pagerduty_escalation_policy" "on_call" {
  name        = "<< slug >>"
  description = "Who is called when nobody acknowledges a page of << slug >>"

  # All over again, twice: a page that nobody has acknowledged is not forgotten.
  num_loops = 2

  rule {
    escalation_delay_in_minutes = 5

    dynamic "target" {
      for_each = [for name, each in local.schedules : name if each.level == 1]

      content {
        type = "schedule_reference"
        id   = pagerduty_schedule.of[target.value].id
      }
    }
  }

  # Where each rotation has one person there is no second.
  dynamic "rule" {
    for_each = anytrue([for each in local.schedules : each.level == 2]) ? ["second"] : []

    content {
      escalation_delay_in_minutes = 15

      dynamic "target" {
        for_each = [for name, each in local.schedules : name if each.level == 2]

        content {
          type = "schedule_reference"
          id   = pagerduty_schedule.of[target.value].id
        }
      }
    }
  }

  rule {
    escalation_delay_in_minutes = 15

    dynamic "target" {
      for_each = var.escalate_to

      content {
        type = "user_reference"
        id   = data.pagerduty_user.of[target.value].id
      }
    }
  }
}

resource "pagerduty_service" "monitored" {
  name              = "<< slug >>"
  description       = "What a page demands is said in docs/on-call.md of << slug >>"
  escalation_policy = pagerduty_escalation_policy.on_call.id

  # Alertmanager says when an alert is over. What is still open after a day, it reports again.
  auto_resolve_timeout = 24 * 60 * 60
  # An acknowledged page that is still open pages again, in case whoever took it is gone.
  acknowledgement_timeout = 30 * 60

  # Critical calls people at once; a warning, which only an environment that no route names sends, does not.
  incident_urgency_rule {
    type    = "constant"
    urgency = "severity_based"
  }
}

resource "pagerduty_alert_grouping_setting" "on_call" {
  count = var.grouping_minutes > 0 ? 1 : 0

  name        = "<< slug >>"
  description = "Pages of << slug >> that come together are one incident"
  type        = "time"
  services    = [pagerduty_service.monitored.id]

  config {
    timeout = var.grouping_minutes * 60
  }
}

resource "pagerduty_service_integration" "alertmanager" {
  name    = "Alertmanager"
  type    = "events_api_v2_inbound_integration"
  service = pagerduty_service.monitored.id
}

output "routing_key" {
  description = "What Alertmanager sends pages with"
  value       = pagerduty_service_integration.alertmanager.integration_key
  sensitive   = true
}

output "service_url" {
  description = "The service in PagerDuty, with who is on call for it"
  value       = pagerduty_service.monitored.html_url
}

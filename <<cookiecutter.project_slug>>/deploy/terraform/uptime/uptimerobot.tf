<% import "quote.j2" as quote %>
terraform {
  required_version = ">= 1.5"

  required_providers {
    uptimerobot = {
      source  = "uptimerobot/uptimerobot"
      version = "1.10.0"
    }
  }
}

variable "uptimerobot_api_key" {
  description = "Main API key: Integrations & API, API"
  type        = string
  sensitive   = true

  validation {
    condition     = length(var.uptimerobot_api_key) > 0
    error_message = "The API key is empty."
  }
}

variable "interval_seconds" {
  description = "Time between two requests; the free plan takes 300 or more"
  type        = number
  default     = 60

  validation {
    condition     = contains([30, 60, 300, 600, 900, 1800, 3600], var.interval_seconds)
    error_message = "The interval is 30, 60, 300, 600, 900, 1800 or 3600 seconds."
  }
}

variable "regions" {
  description = "Where requests come from: na, eu, as, oc; none for a plan without monitor locations"
  type        = set(string)
  default     = ["na", "eu", "as"]

  validation {
    condition     = alltrue([for each in var.regions : contains(["na", "eu", "as", "oc"], each)])
    error_message = "A region is na, eu, as or oc."
  }
}

provider "uptimerobot" {
  api_key = var.uptimerobot_api_key
}

resource "uptimerobot_alert_contact" "on_call" {
  for_each = var.alert_emails

  name                    = each.value
  type                    = "email"
  value                   = each.value
  notification_events     = "up_and_down"
  ssl_expiration_reminder = true
}

resource "uptimerobot_monitor" "ready" {
  name     = << quote.hcl(cookiecutter.project_name) >>
  type     = "HTTP"
  url      = "https://${var.host}/health/ready"
  interval = var.interval_seconds
  timeout  = 10
  tags     = ["<< cookiecutter.project_slug >>"]

  # A redirect, to a login page for one, is not an answer.
  follow_redirections         = false
  success_http_response_codes = ["2xx"]

  check_ssl_errors        = true
  ssl_expiration_reminder = true
  config = {
    ssl_expiration_period_days = [1, 7, 14]
  }

  region_data = length(var.regions) == 0 ? null : { regions = var.regions }

  assigned_alert_contacts = [
    for id in concat(values(uptimerobot_alert_contact.on_call)[*].id, [for id in var.integration_ids : tostring(id)]) : {
      alert_contact_id = id
      threshold        = 0
      recurrence       = 0
    }
  ]
}

resource "uptimerobot_psp" "public" {
  name         = << quote.hcl(cookiecutter.project_name) >>
  monitor_ids  = [uptimerobot_monitor.ready.id]
  monitor_sort = "status_down_up_paused"

  # The status page says whether the service is well, not where its health endpoint is.
  hide_url_links = true
}

output "monitored_url" {
  description = "What is asked"
  value       = uptimerobot_monitor.ready.url
}

output "status_page_url" {
  description = "The public status page"
  value       = "https://stats.uptimerobot.com/${uptimerobot_psp.public.url_key}"
}

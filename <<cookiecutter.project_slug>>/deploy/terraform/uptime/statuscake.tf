<% import "quote.j2" as quote %>
terraform {
  required_version = ">= 1.5"

  required_providers {
    statuscake = {
      source  = "StatusCakeDev/statuscake"
      version = "2.2.2"
    }
  }
}

variable "statuscake_api_token" {
  description = "API token: Account settings, API keys"
  type        = string
  sensitive   = true

  validation {
    condition     = length(var.statuscake_api_token) > 0
    error_message = "The API token is empty."
  }
}

variable "interval_seconds" {
  description = "Time between two requests; the free plan takes 300 or more"
  type        = number
  default     = 60

  validation {
    condition     = contains([30, 60, 300, 900, 1800, 3600, 86400], var.interval_seconds)
    error_message = "The interval is 30, 60, 300, 900, 1800, 3600 or 86400 seconds."
  }
}

variable "regions" {
  description = "Where requests come from; GET /v1/uptime-locations of StatusCake's API lists the region codes"
  type        = list(string)
  default     = ["london", "new-york", "singapore"]

  validation {
    condition     = length(var.regions) > 0 && alltrue([for each in var.regions : can(regex("^[a-z-]+$", each))])
    error_message = "A region is a code such as london or new-york, and there is at least one."
  }
}

provider "statuscake" {
  api_token = var.statuscake_api_token
}

resource "statuscake_contact_group" "on_call" {
  name            = << quote.hcl(cookiecutter.team) >>
  email_addresses = var.alert_emails
  integrations    = var.integration_ids
}

resource "statuscake_uptime_check" "ready" {
  name           = << quote.hcl(cookiecutter.project_name) >>
  check_interval = var.interval_seconds
  regions        = var.regions
  tags           = ["<< cookiecutter.project_slug >>"]
  contact_groups = [statuscake_contact_group.on_call.id]

  # Two other servers must see it too, so that a fault on the way of one wakes nobody.
  confirmation = 2
  trigger_rate = 0

  http_check {
    request_method = "HTTP"
    timeout        = 10
    validate_ssl   = true

    # What means down: all but success, also what only proxies answer, such as 520. A redirect, to a
    # login page for one, is not an answer.
    follow_redirects = false
    status_codes     = [for code in range(300, 600) : tostring(code)]
  }

  monitored_resource {
    address = "https://${var.host}/health/ready"
  }
}

resource "statuscake_ssl_check" "certificate" {
  check_interval = 86400
  contact_groups = [statuscake_contact_group.on_call.id]

  alert_config {
    alert_at    = [1, 7, 14]
    on_broken   = true
    on_expiry   = true
    on_reminder = true
  }

  monitored_resource {
    address = "https://${var.host}"
  }
}

output "monitored_url" {
  description = "What is asked"
  value       = "https://${var.host}/health/ready"
}

output "check_id" {
  description = "The number of the check, to be put on the public status page"
  value       = statuscake_uptime_check.ready.id
}

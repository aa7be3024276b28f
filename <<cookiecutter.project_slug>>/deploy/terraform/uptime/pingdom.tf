<% import "quote.j2" as quote %>
terraform {
  required_version = ">= 1.5"

  required_providers {
    pingdom = {
      source  = "DrFaust92/pingdom"
      version = "1.5.0"
    }
  }
}

variable "pingdom_api_token" {
  description = "API token with access level read/write: Settings, Pingdom API"
  type        = string
  sensitive   = true

  validation {
    condition     = length(var.pingdom_api_token) > 0
    error_message = "The API token is empty."
  }
}

variable "interval_minutes" {
  description = "Time between two requests"
  type        = number
  default     = 1

  validation {
    condition     = contains([1, 5, 15, 30, 60], var.interval_minutes)
    error_message = "The interval is 1, 5, 15, 30 or 60 minutes."
  }
}

variable "regions" {
  description = "Where requests come from: EU, NA, APAC, LATAM; a check for each, so that an outage names its region"
  type        = set(string)
  default     = ["EU", "NA", "APAC"]

  validation {
    condition     = length(var.regions) > 0 && alltrue([for each in var.regions : contains(["EU", "NA", "APAC", "LATAM"], each)])
    error_message = "A region is EU, NA, APAC or LATAM, and there is at least one."
  }
}

provider "pingdom" {
  api_token = var.pingdom_api_token
}

resource "pingdom_contact" "on_call" {
  for_each = var.alert_emails

  name = each.value

  # Pingdom takes a contact only with a way for each severity.
  email_notification {
    address  = each.value
    severity = "HIGH"
  }
  email_notification {
    address  = each.value
    severity = "LOW"
  }
}

resource "pingdom_team" "on_call" {
  name       = << quote.hcl(cookiecutter.team) >>
  member_ids = [for contact in pingdom_contact.on_call : contact.id]
}

resource "pingdom_check" "ready" {
  for_each = var.regions

  name         = format("%s (%s)", << quote.hcl(cookiecutter.project_name) >>, each.value)
  type         = "http"
  host         = var.host
  url          = "/health/ready"
  encryption   = true
  port         = 443
  probefilters = "region:${each.value}"
  tags         = "<< cookiecutter.project_slug >>"

  # Pingdom follows redirects: the page that one leads to, such as a login page, is not an answer.
  shouldcontain = "\"healthy\""

  resolution               = var.interval_minutes
  sendnotificationwhendown = 2
  notifywhenbackup         = true

  # Pingdom knows one kind of trouble: a certificate's last week counts as down.
  verify_certificate   = true
  ssl_down_days_before = 7

  teamids        = [pingdom_team.on_call.id]
  integrationids = var.integration_ids
}

output "monitored_url" {
  description = "What is asked"
  value       = "https://${var.host}/health/ready"
}

output "check_ids" {
  description = "The number of each region's check, to be put on the public status page"
  value       = { for region, check in pingdom_check.ready : region => check.id }
}

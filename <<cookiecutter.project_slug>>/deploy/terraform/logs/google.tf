<% import "log_store.j2" as store with context %>
terraform {
  required_version = ">= 1.5"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "6.50.0"
    }
  }
}

variable "project" {
  description = "Project that lines are written to, such as parcels-123456"
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "The project is an id of 6 to 30 lower-case letters, digits and hyphens, such as parcels-123456."
  }
}

variable "location" {
  description = "Where lines are kept: global, or a region such as europe-west3; it cannot be changed later"
  type        = string
  default     = "global"

  validation {
    condition     = can(regex("^(global|us|eu|[a-z]+-[a-z]+[0-9]+)$", var.location))
    error_message = "The location is global, us, eu or a region such as europe-west3."
  }
}

variable "resource_type" {
  description = "Monitored resource that the log agent names as the lines' origin"
  type        = string
  default     = "k8s_container"

  validation {
    condition     = contains(["k8s_container", "gce_instance", "generic_node", "generic_task", "global"], var.resource_type)
    error_message = "The resource type is k8s_container, gce_instance, generic_node, generic_task or global."
  }
}

variable "notification_channels" {
  description = "Names of the channels that alerts are sent to: projects/PROJECT/notificationChannels/NUMBER"
  type        = set(string)

  validation {
    condition     = length(var.notification_channels) > 0 && alltrue([for each in var.notification_channels : can(regex("^projects/[^/]+/notificationChannels/[0-9]+$", each))])
    error_message = "At least one name of the form projects/PROJECT/notificationChannels/NUMBER is needed."
  }
}

locals {
  of_service = "<< store.fields.service >>=\"<< cookiecutter.project_slug >>\""
}

# The credentials are those of `gcloud auth application-default login`, or a service account's.
provider "google" {
  project = var.project
}

resource "google_logging_project_bucket_config" "lines" {
  project        = var.project
  location       = var.location
  bucket_id      = "<< cookiecutter.project_slug >>"
  description    = "Lines of << cookiecutter.project_slug >>"
  retention_days = var.retention_days
}

resource "google_logging_project_sink" "lines" {
  name        = "<< cookiecutter.project_slug >>"
  destination = "logging.googleapis.com/${google_logging_project_bucket_config.lines.id}"
  filter      = local.of_service
}

# Else the bucket _Default would keep each line as well, and charge for it.
resource "google_logging_project_exclusion" "lines" {
  name        = "<< cookiecutter.project_slug >>"
  description = "Kept in a bucket of their own"
  filter      = local.of_service

  depends_on = [google_logging_project_sink.lines]
}

resource "google_logging_metric" "errors" {
  name        = "<< cookiecutter.project_slug >>/error_lines"
  description = "Lines at ERROR or above"
  filter      = "${local.of_service} AND << store.fields.level >>>=ERROR"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"

    labels {
      key        = "environment"
      value_type = "STRING"
    }
  }
  label_extractors = {
    environment = "EXTRACT(<< store.fields.environment >>)"
  }
}

resource "google_monitoring_alert_policy" "errors" {
  for_each = var.environments

  display_name          = "<< cookiecutter.project_slug >> ${each.value}: error lines"
  combiner              = "OR"
  notification_channels = var.notification_channels

  conditions {
    display_name = "More than ${var.error_lines} lines at ERROR or above within five minutes"

    condition_threshold {
      filter          = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.errors.name}\" AND resource.type=\"${var.resource_type}\" AND metric.labels.environment=\"${each.value}\""
      comparison      = "COMPARISON_GT"
      threshold_value = var.error_lines
      duration        = "0s"

      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "docs/log-queries.md of << cookiecutter.project_slug >>, Errors of the last hour, shows them."
  }

  user_labels = {
    service     = "<< cookiecutter.project_slug >>"
    environment = each.value
  }
}

output "bucket" {
  description = "The bucket that keeps the lines, for the Logs Explorer's choice of what to search"
  value       = google_logging_project_bucket_config.lines.id
}

<% import "log_store.j2" as store with context %>
terraform {
  required_version = ">= 1.5"

  required_providers {
    datadog = {
      source  = "DataDog/datadog"
      version = "3.82.0"
    }
  }
}

variable "datadog_api_key" {
  description = "API key: Organization Settings, API Keys"
  type        = string
  sensitive   = true

  validation {
    condition     = length(var.datadog_api_key) > 0
    error_message = "The API key is empty."
  }
}

variable "datadog_app_key" {
  description = "Application key that may write log configuration and monitors: Organization Settings, Application Keys"
  type        = string
  sensitive   = true

  validation {
    condition     = length(var.datadog_app_key) > 0
    error_message = "The application key is empty."
  }
}

variable "site" {
  description = "Datadog site of the account, such as datadoghq.eu"
  type        = string
  default     = "datadoghq.com"

  validation {
    condition     = contains(["datadoghq.com", "us3.datadoghq.com", "us5.datadoghq.com", "datadoghq.eu", "ap1.datadoghq.com", "ap2.datadoghq.com", "ddog-gov.com"], var.site)
    error_message = "The site is datadoghq.com, us3.datadoghq.com, us5.datadoghq.com, datadoghq.eu, ap1.datadoghq.com, ap2.datadoghq.com or ddog-gov.com."
  }
}

variable "notify" {
  description = "Whom a monitor notifies, as its messages name them: @on-call@example.com, @webhook-alerts"
  type        = set(string)

  validation {
    condition     = length(var.notify) > 0 && alltrue([for each in var.notify : can(regex("^@[^[:space:]]+$", each))])
    error_message = "At least one name such as @on-call@example.com or @webhook-alerts is needed."
  }
}

locals {
  of_service = "<< store.fields.service >>:<< cookiecutter.project_slug >>"

  # The only retentions that Datadog takes; the nearest that is not shorter is used.
  retentions     = [3, 7, 15, 30, 45, 60, 90, 180, 360]
  retention_days = [for days in local.retentions : days if days >= var.retention_days][0]
}

provider "datadog" {
  api_key = var.datadog_api_key
  app_key = var.datadog_app_key
  api_url = "https://api.${var.site}/"
}

resource "datadog_logs_index" "lines" {
  name           = "<< cookiecutter.project_slug >>"
  retention_days = local.retention_days

  filter {
    query = local.of_service
  }
}

resource "datadog_logs_custom_pipeline" "lines" {
  name       = "<< cookiecutter.project_slug >>"
  is_enabled = true

  filter {
    query = local.of_service
  }

  processor {
    date_remapper {
      name       = "The line's own time"
      sources    = ["<< store.fields.timestamp >>"]
      is_enabled = true
    }
  }
  processor {
    status_remapper {
      name       = "Level"
      sources    = ["level"]
      is_enabled = true
    }
  }
  processor {
    trace_id_remapper {
      name       = "Trace"
      sources    = ["<< store.fields.trace_id >>"]
      is_enabled = true
    }
  }

  # Metrics and traces are found by these tags.
  processor {
    attribute_remapper {
      name                 = "Environment"
      sources              = ["<< store.fields.environment >>"]
      source_type          = "attribute"
      target               = "env"
      target_type          = "tag"
      preserve_source      = true
      override_on_conflict = false
      is_enabled           = true
    }
  }
  processor {
    attribute_remapper {
      name                 = "Version"
      sources              = ["<< store.fields.version >>"]
      source_type          = "attribute"
      target               = "version"
      target_type          = "tag"
      preserve_source      = true
      override_on_conflict = false
      is_enabled           = true
    }
  }
  processor {
    geo_ip_parser {
      name       = "Where a client is"
      sources    = ["<< store.fields.client_ip >>"]
      target     = "network.client.geoip"
      is_enabled = true
    }
  }
}

resource "datadog_monitor" "errors" {
  for_each = var.environments

  name    = "<< cookiecutter.project_slug >> ${each.value}: error lines"
  type    = "log alert"
  query   = "logs(\"${local.of_service} << store.fields.environment >>:${each.value} << store.fields.level >>:(error OR critical)\").index(\"${datadog_logs_index.lines.name}\").rollup(\"count\").last(\"5m\") > ${var.error_lines}"
  message = "More than ${var.error_lines} lines at ERROR or above within five minutes. docs/log-queries.md, Errors of the last hour, shows them. ${join(" ", var.notify)}"

  monitor_thresholds {
    critical = var.error_lines
  }

  # No line is no error.
  on_missing_data = "default"

  tags = ["service:<< cookiecutter.project_slug >>", "env:${each.value}"]
}

output "retention_days" {
  description = "Days that Datadog keeps lines"
  value       = local.retention_days
}

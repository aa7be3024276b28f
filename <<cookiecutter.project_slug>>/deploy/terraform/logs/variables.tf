variable "environments" {
  description = "Environments that have an alert of their own"
  type        = set(string)
  default     = ["production", "staging"]

  validation {
    condition     = length(var.environments) > 0 && alltrue([for each in var.environments : can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", each))])
    error_message = "An environment is a name in lower case such as production, and there is at least one."
  }
}

variable "error_lines" {
  description = "Error lines within five minutes; more than these alert"
  type        = number
  default     = 5

  validation {
    condition     = var.error_lines >= 0 && floor(var.error_lines) == var.error_lines
    error_message = "The number of error lines is a whole number, 0 or more."
  }
}
<% if cookiecutter.telemetry_backend != "newrelic" %>

variable "retention_days" {
  description = "Days that lines are kept"
  type        = number
  default     = << cookiecutter._tiers[cookiecutter.scale_tier].retention_days >>

  validation {
    condition     = var.retention_days >= 1 && var.retention_days <= << {"aws": 3653, "gcp": 3650, "datadog": 360}[cookiecutter.telemetry_backend] | default(3650) >> && floor(var.retention_days) == var.retention_days
    error_message = "The retention is a whole number of days, 1 to << {"aws": 3653, "gcp": 3650, "datadog": 360}[cookiecutter.telemetry_backend] | default(3650) >>."
  }
}
<% endif %>

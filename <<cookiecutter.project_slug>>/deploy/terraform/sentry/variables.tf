variable "sentry_token" {
  description = "Token of an internal integration that may write alerts and read the organization, projects and teams: Settings, Custom Integrations"
  type        = string
  sensitive   = true

  validation {
    condition     = length(var.sentry_token) > 0
    error_message = "The token is empty."
  }
}

variable "sentry_url" {
  description = "Address of Sentry's API: https://de.sentry.io/api/ for data kept in the EU, your own server's where you run one"
  type        = string
  default     = "https://sentry.io/api/"

  validation {
    condition     = can(regex("^https://[^/[:space:]]+/api/$", var.sentry_url))
    error_message = "The address is https://HOST/api/, with the slash at its end."
  }
}

variable "organization" {
  description = "The organization, as its address in Sentry names it"
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9_-]*$", var.organization))
    error_message = "The organization is its name in addresses, such as example-ltd: lower case, no space."
  }
}

variable "project" {
  description = "The project to which SENTRY_DSN leads, as its address in Sentry names it"
  type        = string
  default     = "<< cookiecutter.project_slug >>"

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9_-]*$", var.project))
    error_message = "The project is its name in addresses, such as parcels: lower case, no space."
  }
}

variable "team" {
  description = "The team whose members get mail, as its address in Sentry names it"
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9_-]*$", var.team))
    error_message = "The team is its name in addresses, such as logistics: lower case, no space, no #."
  }
}

variable "environment" {
  description = "Whose errors are looked at: what ENVIRONMENT is in the service's settings"
  type        = string
  default     = "production"

  validation {
    condition     = can(regex("^[^/[:space:]]+$", var.environment))
    error_message = "The environment is one word, such as production."
  }
}

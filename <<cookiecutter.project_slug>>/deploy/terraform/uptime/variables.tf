variable "host" {
  description = "Host name under which users reach the service, such as parcels.example.com"
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?[.])+[a-z]([a-z0-9-]*[a-z0-9])$", var.host))
    error_message = "The host is a name such as parcels.example.com: lower case, no https:// in front, no path or port behind."
  }
}

variable "alert_emails" {
  description = "Addresses that get mail when the service does not answer, and when it does again"
  type        = set(string)

  validation {
    condition     = length(var.alert_emails) > 0 && alltrue([for each in var.alert_emails : can(regex("^[^@[:space:]]+@[^@[:space:]]+[.][^@[:space:]]+$", each))])
    error_message = "At least one address of the form name@example.com is needed."
  }
}

variable "integration_ids" {
  description = "Numbers of the integrations that alerts go to as well, such as the one for << {'pagerduty': 'PagerDuty', 'slack': 'Slack'}[cookiecutter.paging] >>"
  type        = set(number)
  default     = []

  validation {
    condition     = alltrue([for each in var.integration_ids : each > 0 && floor(each) == each])
    error_message = "An integration's number is a whole number above 0."
  }
}

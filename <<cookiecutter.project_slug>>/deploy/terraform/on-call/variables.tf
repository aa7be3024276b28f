variable "pagerduty_token" {
  description = "REST API key, not read-only: Integrations, API Access Keys"
  type        = string
  sensitive   = true

  validation {
    condition     = length(var.pagerduty_token) > 0
    error_message = "The API key is empty."
  }
}

variable "service_region" {
  description = "Where PagerDuty keeps the account: us, or eu if its address is under eu.pagerduty.com"
  type        = string
  default     = "us"

  validation {
    condition     = contains(["us", "eu"], var.service_region)
    error_message = "The region is us or eu."
  }
}

variable "rotations" {
  description = "Who is on call, by the rotation's name: one, or two or three that follow the sun"
  type = map(object({
    # Of the people and of the hand-off, such as Europe/Berlin.
    time_zone = string
    # When the first turn begins: later ones begin on the same weekday, at the same hour.
    first_handoff = string
    # How long a rotation is on call each day, from the hour of the hand-off.
    hours = optional(number, 24)
    # E-mail addresses of PagerDuty's users, in the order of their turns, a week each.
    people = list(string)
  }))

  validation {
    condition     = length(var.rotations) >= 1 && length(var.rotations) <= 3
    error_message = "There is one rotation, or there are two or three that follow the sun: ${length(var.rotations)} are given."
  }

  validation {
    condition     = alltrue([for each in var.rotations : length(each.people) > 0])
    error_message = "A rotation needs at least one person: ${join(", ", [for name, each in var.rotations : name if length(each.people) == 0])} has none."
  }

  validation {
    condition = alltrue(flatten([
      for each in var.rotations : [for email in each.people : can(regex("^[^@[:space:]]+@[^@[:space:]]+[.][^@[:space:]]+$", email))]
    ]))
    error_message = "A person is an address of the form name@example.com."
  }

  validation {
    condition     = alltrue([for each in var.rotations : length(distinct(each.people)) == length(each.people)])
    error_message = "Nobody has two turns in a rotation: ${join(", ", [for name, each in var.rotations : name if length(distinct(each.people)) < length(each.people)])} names somebody twice."
  }

  validation {
    condition     = alltrue([for each in var.rotations : can(regex("^[A-Z][A-Za-z]+(/[A-Z][A-Za-z0-9_+-]*){1,2}$", each.time_zone))])
    error_message = "A time zone is a name such as Europe/Berlin or Etc/UTC, not ${join(", ", [for each in var.rotations : each.time_zone if !can(regex("^[A-Z][A-Za-z]+(/[A-Z][A-Za-z0-9_+-]*){1,2}$", each.time_zone))])}."
  }

  validation {
    condition = alltrue([
      for each in var.rotations :
      can(timeadd(each.first_handoff, "0s")) && can(regex("T[0-9]{2}:[0-9]{2}:00(Z|[+-][0-9]{2}:[0-9]{2})$", each.first_handoff))
    ])
    error_message = "A first hand-off is a moment such as 2026-11-30T09:00:00+01:00: a day that exists, the hour, how far the time zone is from UTC then. It is not ${join(", ", [for each in var.rotations : each.first_handoff if !can(timeadd(each.first_handoff, "0s")) || !can(regex("T[0-9]{2}:[0-9]{2}:00(Z|[+-][0-9]{2}:[0-9]{2})$", each.first_handoff))])}."
  }

  validation {
    condition     = alltrue([for each in var.rotations : each.hours >= 1 && each.hours <= 24 && floor(each.hours) == each.hours])
    error_message = "A rotation is on call for 1 to 24 whole hours a day."
  }

  # Each quarter of an hour of a day in UTC lies within the hours of some rotation, counted from its hand-off.
  validation {
    condition = try(length(var.rotations) == 0 || alltrue([
      for minute in range(0, 1440, 15) : anytrue([
        for each in var.rotations : each.hours * 60 > sum([
          2880 + minute,
          -60 * tonumber(substr(each.first_handoff, 11, 2)),
          -1 * tonumber(substr(each.first_handoff, 14, 2)),
          try(60 * tonumber("${substr(each.first_handoff, 19, 1)}${substr(each.first_handoff, 20, 2)}"), 0),
          try(tonumber("${substr(each.first_handoff, 19, 1)}${substr(each.first_handoff, 23, 2)}"), 0),
        ]) % 1440
      ])
    ]), true)
    error_message = "At some hour of the day nobody is on call: the rotations' hours must follow each other around the clock."
  }
}

variable "escalate_to" {
  description = "E-mail addresses of PagerDuty's users who are paged when nobody on call has answered"
  type        = set(string)

  validation {
    condition     = length(var.escalate_to) >= 1 && length(var.escalate_to) <= 10 && alltrue([for each in var.escalate_to : can(regex("^[^@[:space:]]+@[^@[:space:]]+[.][^@[:space:]]+$", each))])
    error_message = "One to ten addresses of the form name@example.com are needed."
  }
}

variable "grouping_minutes" {
  description = "Pages within so many minutes of the first are one incident; 0 for a plan of PagerDuty's without alert grouping"
  type        = number
  default     = 5

  validation {
    condition     = var.grouping_minutes >= 0 && var.grouping_minutes <= 1440 && floor(var.grouping_minutes) == var.grouping_minutes
    error_message = "The time is 0 to 1440 whole minutes."
  }
}

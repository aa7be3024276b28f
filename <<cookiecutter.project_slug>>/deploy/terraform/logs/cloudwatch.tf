<% import "quote.j2" as quote %>
<% import "log_store.j2" as store with context %>
terraform {
  required_version = ">= 1.5"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "6.25.0"
    }
  }
}

variable "region" {
  description = "Region of the log groups, such as eu-central-1"
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]+$", var.region))
    error_message = "The region is a name such as eu-central-1."
  }
}

variable "alarm_topics" {
  description = "ARNs of the SNS topics that alarms are sent to"
  type        = set(string)

  validation {
    condition     = length(var.alarm_topics) > 0 && alltrue([for each in var.alarm_topics : can(regex("^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_.-]+$", each))])
    error_message = "At least one ARN of the form arn:aws:sns:REGION:ACCOUNT:TOPIC is needed."
  }
}

locals {
  # The only retentions that CloudWatch takes; the nearest that is not shorter is used.
  retentions     = [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653]
  retention_days = [for days in local.retentions : days if days >= var.retention_days][0]

  queries = {
<% for each in store.questions if not each.everywhere %>
    << "%-15s" | format(each.key) >> = << quote.hcl(store.queries[each.key]) | replace("\n", "\\n") >>
<% endfor %>
  }

  queries_of_all_services = {
<% for each in store.questions if each.everywhere %>
    << "%-17s" | format(each.key) >> = << quote.hcl(store.queries[each.key]) | replace("\n", "\\n") >>
<% endfor %>
  }
}

# The credentials are those of the AWS command line: AWS_PROFILE, or a role.
provider "aws" {
  region = var.region
}

resource "aws_cloudwatch_log_group" "lines" {
  for_each = var.environments

  name              = "/<< cookiecutter.project_slug >>/${each.value}"
  retention_in_days = local.retention_days

  tags = {
    service     = "<< cookiecutter.project_slug >>"
    environment = each.value
  }
}

resource "aws_cloudwatch_log_metric_filter" "errors" {
  for_each = var.environments

  name           = "error-lines"
  log_group_name = aws_cloudwatch_log_group.lines[each.value].name
  pattern        = "{ $.<< store.fields.level >> = \"ERROR\" || $.<< store.fields.level >> = \"CRITICAL\" }"

  metric_transformation {
    namespace     = "<< cookiecutter.project_slug >>"
    name          = "error_lines_${each.value}"
    value         = "1"
    default_value = "0"
  }
}

resource "aws_cloudwatch_metric_alarm" "errors" {
  for_each = var.environments

  alarm_name          = "<< cookiecutter.project_slug >> ${each.value}: error lines"
  alarm_description   = "More than ${var.error_lines} lines at ERROR or above within five minutes. docs/log-queries.md, Errors of the last hour, shows them."
  namespace           = "<< cookiecutter.project_slug >>"
  metric_name         = "error_lines_${each.value}"
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.error_lines
  alarm_actions       = var.alarm_topics
  ok_actions          = var.alarm_topics

  # Without lines there are no values.
  treat_missing_data = "notBreaching"

  tags = {
    service     = "<< cookiecutter.project_slug >>"
    environment = each.value
  }
}

resource "aws_cloudwatch_query_definition" "of_environment" {
  for_each = {
    for pair in setproduct(var.environments, keys(local.queries)) : "${pair[0]}/${pair[1]}" => {
      environment = pair[0]
      question    = pair[1]
    }
  }

  name            = "<< cookiecutter.project_slug >>/${each.key}"
  log_group_names = [aws_cloudwatch_log_group.lines[each.value.environment].name]
  query_string    = local.queries[each.value.question]
}

# Which log groups there are, the one who asks knows.
resource "aws_cloudwatch_query_definition" "of_all_services" {
  for_each = local.queries_of_all_services

  name         = "<< cookiecutter.project_slug >>/all services/${each.key}"
  query_string = each.value
}

output "log_groups" {
  description = "The log group of each environment"
  value       = { for environment, group in aws_cloudwatch_log_group.lines : environment => group.name }
}

output "retention_days" {
  description = "Days that CloudWatch keeps lines"
  value       = local.retention_days
}

"""The template of what all pages lay out alike.

A module and no file of its own kind, because Flower packs no such file into the bundle that a server runs.
"""

TEMPLATE = r"""{# What all pages lay out alike. #}
{% macro head(title, style) %}<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{{ title }}</title>
<style>
{{ style }}
</style>
</head>{% endmacro %}
{% macro pairs(rows) %}
<dl class="pairs">
{% for name, value in rows %}
  <div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor %}
</dl>
{% endmacro %}

{% macro truth(holds, yes, no) %}<span class="mark {{ 'yes' if holds else 'no' }}">{{ '✓' if holds else '✕' }}&nbsp;{{ yes if holds else no }}</span>{% endmacro %}

{% macro claims_table(rows, nothing) %}
{% if rows %}
<div class="scroll" tabindex="0" role="region" aria-label="Claims by adversary">
<table class="claims">
  <thead><tr><th scope="col">Adversary</th><th scope="col">Protected</th><th scope="col">ε</th><th scope="col">δ</th><th scope="col">Unit, relation</th><th scope="col">In plain words</th></tr></thead>
  <tbody>
  {% for row in rows %}
    <tr><th scope="row">{{ row.who }}</th><td>{{ truth(row.holds, row.verdict, row.verdict) }}</td><td data-name="ε">{{ row.epsilon }}{% if row.note %}<small>{{ row.note }}</small>{% endif %}</td><td data-name="δ">{{ row.delta }}</td><td data-name="unit, relation">{{ row.unit }}</td><td>{{ row.statement | unbroken }}</td></tr>
  {% endfor %}
  </tbody>
</table>
</div>
{% else %}
<p class="empty">{{ nothing }}</p>
{% endif %}
{% endmacro %}

{% macro sent_table(rows) %}
{% if rows %}
<div class="scroll" tabindex="0" role="region" aria-label="What a client sends">
<table class="claims"><thead><tr><th scope="col">A client sends</th><th scope="col">When</th><th scope="col">How</th></tr></thead>
<tbody>{% for what, when, how in rows %}<tr><th scope="row">{{ what }}</th><td>{{ when }}</td><td>{{ how | unbroken }}</td></tr>{% endfor %}</tbody></table>
</div>
{% endif %}
{% endmacro %}

{% macro releases_table(rows) %}
<div class="scroll" tabindex="0" role="region" aria-label="Releases">
<table class="models"><thead><tr><th scope="col">Release</th><th scope="col">Times</th><th scope="col">Noise multiplier</th><th scope="col">Noise in each sum</th><th scope="col">Share of the budget</th></tr></thead>
<tbody>{% for name, times, multiplier, noise, share in rows %}<tr><th scope="row">{{ name }}</th><td>{{ times }}</td><td>{{ multiplier }}</td><td>{{ noise }}</td><td>{{ share }}</td></tr>{% endfor %}</tbody></table>
</div>
<p class="legend">Noise: its standard deviation, over the bound on one user's contribution, and in the sum over all users. Share: of the releases' squared signal, by which the budget is divided.</p>
{% endmacro %}

{% macro bounds_list(bounds) %}
{% if bounds %}
<dl class="bounds">
{% for bound in bounds %}
  <div><dt>{{ bound.name }}</dt><dd class="number"><abbr title="epsilon">ε</abbr> = {{ bound.epsilon }}</dd><dd>{{ bound.sentence | unbroken }}</dd></div>
{% endfor %}
</dl>
{% endif %}
{% endmacro %}

{% macro assumptions(safeguards) %}
{% if safeguards.assumptions %}
<ul class="checks">
{% for sentence, verdict, holds in safeguards.assumptions %}
  <li class="{{ 'yes' if holds else 'no' }}"><span class="sign" aria-hidden="true">{{ '✓' if holds else '✕' }}</span><span>{{ sentence }} <em>{{ verdict }}</em></span></li>
{% endfor %}
</ul>
{% if safeguards.broken %}<p class="notice">An assumption does not hold. A claim that rests on it does not hold, and is shown so.</p>{% endif %}
{% else %}<p class="empty">No assumption was recorded.</p>{% endif %}
{% endmacro %}

{% macro warnings(safeguards) %}
{% for warning in safeguards.warnings %}
<p class="notice"><strong>Warning.</strong> {{ warning | unbroken }}</p>
{% endfor %}
{% endmacro %}

{% macro not_protected(safeguards) %}
{% if safeguards.not_protected %}
<ul class="checks">{% for item in safeguards.not_protected %}<li class="no"><span class="sign" aria-hidden="true">✕</span><span>{{ item }}</span></li>{% endfor %}</ul>
{% else %}<p class="empty">Nothing is listed. That is a gap and no guarantee.</p>{% endif %}
{% endmacro %}
"""

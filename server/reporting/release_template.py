"""The template of the release report's page.

A module and no file of its own kind, because Flower packs no such file into the bundle that a server runs.
"""

TEMPLATE = r"""{% import "parts.html" as parts %}
{{ parts.head(name ~ ' · Tacit release report', style) }}
<body>
<div class="stamp{{ ' accounted' if is_private }}" role="note"><p><strong>{{ 'RELEASE REPORT' if is_private else 'NOT PRIVATE' }}</strong> <span>{{ stamp }}</span></p></div>
<div class="page">
<header>
  <p class="eyebrow">Tacit release report</p>
  <h1>{{ name }}</h1>
  <p class="meta">{% if not trains %}Released: a recommender from statistics alone, without training{% elif round_number is none %}Released round not stated{% else %}Released: the adapter of round {{ text.count_text(round_number) }}{% endif %}</p>
  {% if not is_private %}
  <p class="notice"><strong>This run is not private.</strong> Nothing on this page, and nothing in the adapter it describes, carries a privacy guarantee.</p>
  {% elif not claim.holds %}
  <p class="notice"><strong>This run does not protect as planned.</strong> The table below says what holds.</p>
  {% elif not claim.is_meaningful %}
  <p class="notice"><strong>No meaningful protection.</strong> The bound is above 20.</p>
  {% endif %}
  <p class="lead">{{ claim.sentence | unbroken }}</p>
  <div class="tiles six">
    <div class="tile{{ '' if claim.is_meaningful else ' warn' }}">
      <p class="tile-name">Epsilon</p>
      <p class="tile-value">{% if claim.holds %}<abbr title="epsilon">ε</abbr> = {{ text.epsilon_text(claim.epsilon) }}{% else %}not claimed{% endif %}</p>
    </div>
    <div class="tile">
      <p class="tile-name">Delta</p>
      <p class="tile-value">{% if claim.holds %}<abbr title="delta">δ</abbr> = {{ text.delta_text(claim.delta) }}{% else %}{{ text.MISSING }}{% endif %}</p>
    </div>
    <div class="tile">
      <p class="tile-name">Adversary</p>
      <p class="tile-words">{{ claim.who }}</p>
    </div>
    <div class="tile">
      <p class="tile-name">Unit</p>
      <p class="tile-words">{{ claim.unit }}</p>
    </div>
    <div class="tile">
      <p class="tile-name">Neighboring relation</p>
      <p class="tile-words">{{ claim.relation }}</p>
    </div>
    <div class="tile">
      <p class="tile-name">Release scope</p>
      <p class="tile-words">{{ claim.scope }}</p>
    </div>
  </div>
  {% if is_private %}
  <p class="claim">Every epsilon and delta on this page is rounded up.</p>
  {% endif %}
</header>
<nav aria-label="Sections">
  <a href="#claims">Claims</a>{% if is_private %}<a href="#epsilon">Epsilon</a><a href="#budget">Budget</a>{% endif %}<a href="#metrics">Metrics</a><a href="#assumptions">Assumptions</a><a href="#mechanism">Mechanism</a><a href="#sent">Sent</a><a href="#identity">Identity</a>{% if audited %}<a href="audit.html">Audit</a>{% endif %}
</nav>
<main>

<section id="claims" aria-labelledby="claims-title">
  <h2 id="claims-title">Claims, one for each adversary</h2>
  {{ parts.warnings(safeguards) }}
  {{ parts.claims_table(claims, 'The report names no adversary, so it claims nothing.') }}
  {{ parts.bounds_list(bounds) }}
</section>

{% if is_private %}
<section id="epsilon" aria-labelledby="epsilon-title">
  <h2 id="epsilon-title">{{ 'Epsilon over rounds, and at other deltas' if trains else 'Epsilon at other deltas' }}</h2>
  <div class="charts two">
    {% if trains %}
    <figure><figcaption>Epsilon over rounds{% if not claim.holds %} (arithmetic only){% endif %}</figcaption>{{ epsilon.over_rounds }}</figure>
    {% endif %}
    <figure><figcaption>Epsilon at each delta{% if not claim.holds %} (arithmetic only){% endif %}</figcaption>{{ epsilon.over_deltas }}</figure>
  </div>
  {% if trains %}
  <p class="legend">Both against: {{ claim.who }}. Left: the statistics and the training rounds so far; selection and released metrics come on top and are in the quoted bound. Right: the same run as a whole, read at other values of δ; each point holds, and the dashed line is the one that is quoted.</p>
  {% else %}
  <p class="legend">Against: {{ claim.who }}. The run as a whole, read at other values of δ; each point holds, and the dashed line is the one that is quoted.</p>
  {% endif %}
  <details>
    <summary>Numbers behind the chart{{ 's' if trains }}</summary>
    <div class="charts two">
      {% if trains %}
      <div class="scroll tall" tabindex="0" role="region" aria-label="Epsilon over rounds">
      <table><thead><tr><th scope="col">After round</th><th scope="col">ε</th></tr></thead>
      <tbody>{% for at, value in epsilon.rounds %}<tr><th scope="row">{{ at }}</th><td>{{ value }}</td></tr>{% endfor %}</tbody></table>
      </div>
      {% endif %}
      <div class="scroll tall" tabindex="0" role="region" aria-label="Epsilon at each delta">
      <table><thead><tr><th scope="col">δ</th><th scope="col">ε</th></tr></thead>
      <tbody>{% for at, value in epsilon.deltas %}<tr><th scope="row">{{ at }}</th><td>{{ value }}</td></tr>{% endfor %}</tbody></table>
      </div>
    </div>
  </details>
</section>

<section id="budget" aria-labelledby="budget-title">
  <h2 id="budget-title">What the budget was spent on</h2>
  <div class="charts two">
    <figure><figcaption>Epsilon of each kind of release{% if not claim.holds %} (arithmetic only){% endif %}</figcaption>{{ spending.chart }}</figure>
    <div class="prose">
      <p>The values alone do not add up to the one together: the noises of different releases are independent, so losses partly cancel and the bound of all grows more slowly than a sum, about like the root of the sum of squares. The quoted bound composes every release at the one δ of the run.</p>
      {% if spending.equal %}
      <p>The quoted bound is itself one by Rényi differential privacy, so the cross-check equals it.</p>
      {% elif spending.checked %}
      <p>The cross-check reaches a bound on the same releases by other mathematics (Rényi differential privacy). It is usually looser, so it should not stand clearly below the quoted one.</p>
      {% else %}
      <p>There is no cross-check: no Rényi bound is known for this mechanism.</p>
      {% endif %}
    </div>
  </div>
  {% if releases and not trains %}
  <h3 class="apart">Releases</h3>
  {{ parts.releases_table(releases) }}
  {% endif %}
</section>
{% endif %}

<section id="metrics" aria-labelledby="metrics-title">
  <h2 id="metrics-title">Released metrics</h2>
  {% if selected and not trains and is_private %}<p>{{ selected | unbroken }}</p>{% endif %}
  {% if metrics %}
  <div class="scroll" tabindex="0" role="region" aria-label="Released metrics">
  <table class="models">
    <thead><tr><th scope="col">Target</th>{% if trains %}<th scope="col">Round</th>{% endif %}<th scope="col">HR@{{ cutoff }}</th><th scope="col">NDCG@{{ cutoff }}</th><th scope="col">Noise, 95 %</th><th scope="col">Users</th></tr></thead>
    <tbody>
    {% for row in metrics %}
      <tr><th scope="row">{{ row.target }}</th>{% if trains %}<td>{{ row.round_number }}</td>{% endif %}<td>{{ row.hr }}</td><td>{{ row.ndcg }}</td><td>{{ row.noise }}</td><td>{{ row.users }}</td></tr>
    {% endfor %}
    </tbody>
  </table>
  </div>
  <p class="legend">Every number carries noise that is in the account, the count of users too. The noise column is half the 95 % interval of HR and NDCG that is due to that noise alone; how much they would differ with other users comes on top. Withheld: too few users, or too much noise, for a mean that says anything.</p>
  {% elif is_private %}
  <p class="empty">No metric was released. Exact ones are not for release.</p>
  {% else %}
  <p class="empty">No metric may be released: the run is not private.</p>
  {% endif %}
</section>

<section id="assumptions" aria-labelledby="assumptions-title">
  <h2 id="assumptions-title">What the claims rest on, and what they leave out</h2>
  <div class="charts two">
    <div>
      <h3>Assumptions</h3>
      {{ parts.assumptions(safeguards) }}
    </div>
    <div>
      <h3>Not protected</h3>
      {{ parts.not_protected(safeguards) }}
    </div>
  </div>
</section>

<section id="mechanism" aria-labelledby="mechanism-title">
  <h2 id="mechanism-title">Mechanism</h2>
  {% if mechanism %}
  <div class="columns">{{ parts.pairs(mechanism) }}</div>
  <p class="small">{% if not is_private %}Settings only: no bound follows from them in this run. {% endif %}Noise is rounded down and rates are rounded up, so that no number flatters; <code>release.json</code> holds them in full.</p>
  {% else %}
  <p class="empty">No mechanism was recorded.</p>
  {% endif %}
</section>

<section id="sent" aria-labelledby="sent-title">
  <h2 id="sent-title">What a client sends</h2>
  {% if sent %}{{ parts.sent_table(sent) }}{% else %}<p class="empty">The report does not say.</p>{% endif %}
</section>

<section id="identity" aria-labelledby="identity-title">
  <h2 id="identity-title">What exactly was released</h2>
  {% if identity.rows %}{{ parts.pairs(identity.rows) }}{% else %}<p class="empty">The report does not say which adapter it is about.</p>{% endif %}
  {% if identity.files %}
  <h3 class="apart">Files (SHA-256)</h3>
  <div class="scroll" tabindex="0" role="region" aria-label="Files">
  <table class="config"><thead><tr><th scope="col">File</th><th scope="col">Digest</th></tr></thead>
  <tbody>{% for file, digest in identity.files %}<tr><th scope="row">{{ file }}</th><td>{{ digest }}</td></tr>{% endfor %}</tbody></table>
  </div>
  {% endif %}
  {% if identity.versions %}<h3 class="apart">Versions</h3><div class="columns">{{ parts.pairs(identity.versions) }}</div>{% endif %}
</section>
</main>
<footer>
  <p>Rendered by Tacit from <code>release.json</code>; every number stands there. This page computes none and loads nothing.</p>
</footer>
</div>
</body>
</html>
"""

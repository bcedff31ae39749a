"""How the API's documentation and the operators' admin present themselves."""

STATIC_URL = "/static/"

SPECTACULAR_SETTINGS = {
    "TITLE": "AI Inference Platform",
    "DESCRIPTION": (
        "Language models by the token. Every endpoint takes an organization's API key: press "
        "**Authorize** and paste it. Below `/v1` any OpenAI client works; errors there are "
        "OpenAI's, elsewhere `application/problem+json`. Every answer carries `X-Request-ID`; "
        "an `X-Request-ID` that you send is kept as the request's label in your usage.\n\n"
        "A WebSocket at `/ws/v1/infer` runs many requests over one connection: send "
        '`{"type": "auth", "key": …}` (or the `Authorization` header), then '
        '`{"type": "infer", "id": "a", "prompt": …}`; `{"type": "cancel", "id": "a"}` stops one.'
    ),
    "VERSION": "1.0.0",
    "TAGS": [
        {"name": "OpenAI", "description": "As in OpenAI's API: change the base URL, that is all."},
        {"name": "Inference", "description": "One prompt, one answer, and what it cost."},
        {"name": "Version 2", "description": "Jobs first, one envelope: `data`, `page`, `meta`."},
        {"name": "Usage", "description": "What was used, and what it comes to."},
        {"name": "API keys", "description": "Programs' ways in: made, bounded, rotated, revoked."},
        {"name": "Organization", "description": "Who changed what."},
        {"name": "Log-in", "description": "People's way in: access and refresh tokens."},
    ],
    "APPEND_COMPONENTS": {
        "securitySchemes": {
            "key": {"type": "http", "scheme": "bearer", "description": "An API key: `aip_…`"}
        }
    },
    "SECURITY": [{"key": []}],
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "config.documentation.complete",
    ],
    "ENUM_NAME_OVERRIDES": {
        "MemberRoleEnum": ["owner", "admin", "developer", "billing", "viewer"],
        "KeyStateEnum": ["active", "expired", "revoked"],
    },
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {
        "deepLinking": True,
        "displayRequestDuration": True,
        "defaultModelsExpandDepth": -1,
        "validatorUrl": None,
    },
    "REDOC_DIST": "SIDECAR",
}

UNFOLD = {
    "SITE_TITLE": "AI Inference Platform",
    "SITE_HEADER": "AI Inference",
    "SITE_SUBHEADER": "Operators",
    "SITE_SYMBOL": "bolt",
    "SITE_URL": "/",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": f"{STATIC_URL}icon.svg"}],
    "ENVIRONMENT": "config.navigation.environment",
    "DASHBOARD_CALLBACK": "config.dashboard.dashboard",
    "LOGIN": {"form": "tenants.forms.OperatorLoginForm"},
    "GLOBAL_CALLBACK": "config.pages.without_colors",
    "STYLES": ["/admin.css", f"{STATIC_URL}admin.css"],
    "SCRIPTS": [f"{STATIC_URL}expressions.js"],
    "SIDEBAR": {"navigation": "config.navigation.sidebar", "command_search": True},
    "COMMAND": {"search_callback": "config.navigation.search"},
    "COLORS": {
        "primary": {
            "50": "#eef2ff",
            "100": "#e0e7ff",
            "200": "#c7d2fe",
            "300": "#a5b4fc",
            "400": "#818cf8",
            "500": "#6366f1",
            "600": "#4f46e5",
            "700": "#4338ca",
            "800": "#3730a3",
            "900": "#312e81",
            "950": "#1e1b4b",
        }
    },
}

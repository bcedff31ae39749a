"""Every path of the platform."""

from django.contrib import admin
from django.urls import include, path, re_path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView

import analytics.urls
import billing.urls
import inference.urls
import tenants.urls
from config.health import health
from config.pages import Docs, admin_colors, home, nothing_here
from config.scrape import metrics
from config.versions import changes

API = [
    *inference.urls.api,
    *analytics.urls.urlpatterns,
    *billing.urls.urlpatterns,
    *tenants.urls.urlpatterns,
]
PORTAL = [*analytics.urls.portal, *billing.urls.portal, *tenants.urls.portal]
handler500 = "config.pages.unanswered"
urlpatterns = [
    path("", home),
    path("health", health),
    path("metrics", metrics),
    path("v1/", include(inference.urls.openai)),
    path("api/v1/", include(API)),
    path("api/v2/", include([*inference.urls.v2, *analytics.urls.v2])),
    path("api/schema", SpectacularAPIView.as_view(), name="schema"),
    path("api/changes", changes),
    path("api/docs", Docs.as_view(), name="docs"),
    path("admin.css", admin_colors),
    path("admin/password_change/", RedirectView.as_view(pattern_name="account_change_password")),
    path("admin/", admin.site.urls),
    path("accounts/", include("allauth.account.urls")),
    path("accounts/2fa/", include("allauth.mfa.urls")),
    path("accounts/3rdparty/", include("allauth.socialaccount.urls")),
    path("o/<slug:organization>/", include(PORTAL)),
    *billing.urls.pages,
    *tenants.urls.pages,
    re_path(r"^(?:v1|api)(?:/|$)", nothing_here),
]
